//! The workers at work, with a cleaner and a registry made for the test.
