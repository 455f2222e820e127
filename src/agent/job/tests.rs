//! Each rule of the duties, one test each.
