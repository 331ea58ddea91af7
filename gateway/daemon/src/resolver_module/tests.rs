//! The desk against a resolver of the test.
