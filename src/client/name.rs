//! The two ids by which a holder speaks of its lease: the worker's and the job's.
//!
//! Never here: whether the thing exists.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// Longest job id in characters, as the API has it.
const JOB_CHARS_MAX: usize = 128;

/// A worker's resource name, `pools/{pool}/workers/{worker}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(String);

impl WorkerId {
    /// The resource name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The pool's resource name.
    pub fn pool(&self) -> &str {
        self.0.split("/workers/").next().unwrap_or(&self.0)
    }

    /// The last part of the name.
    pub fn bare(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl FromStr for WorkerId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        remuda_wire::name::worker(text).map_err(|e| Error::invalid(e.to_string()))?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A job's id, chosen by its client.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(String);

impl JobId {
    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for JobId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.chars().count() {
            1..=JOB_CHARS_MAX => Ok(Self(text.to_owned())),
            n => Err(Error::invalid(format!("a job id has 1 to {JOB_CHARS_MAX} characters; this one has {n}"))),
        }
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_named_in_full() {
        let worker: WorkerId = "pools/ci/workers/w-1".parse().expect("a good name");
        assert_eq!((worker.pool(), worker.bare()), ("pools/ci", "w-1"));
        for bad in ["w-1", "pools/ci", "pools/CI/workers/w", "pools/ci/workers/w/returns/1", ""] {
            assert!(bad.parse::<WorkerId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_job_has_an_id() {
        assert!("".parse::<JobId>().is_err());
        assert!("j".repeat(129).parse::<JobId>().is_err());
        assert!("j".repeat(128).parse::<JobId>().is_ok());
    }
}
