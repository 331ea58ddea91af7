//! Groups and races over the memory transport.
