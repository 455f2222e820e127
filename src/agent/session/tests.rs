//! Sessions against a registry made for the test.
