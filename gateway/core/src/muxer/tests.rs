//! Tests of the muxer.
