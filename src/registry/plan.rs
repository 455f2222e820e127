//! The cleaning plan, the receipt and the thresholds: what must be done, what was observed, what counts as healthy.
//!
//! Both are data. A plan's steps are done in order; a step is done when its post-condition was observed, not when its
//! action returned. What this version does not know is kept as text, so that a newer agent's steps survive.
//!
//! Invariants
//! * Evidence never exceeds [`EVIDENCE_BYTES_MAX`](crate::limits::EVIDENCE_BYTES_MAX) once it is in the state.
//!
//! Never here: how a step is carried out; the agent knows. Judging a receipt is `apply/judge`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::time::Millis;

/// Ordered steps and the probes that follow them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleaningPlan {
    /// In the order in which they are done.
    pub steps: Vec<PlanStep>,
    /// Asked after the last step.
    pub probes: Vec<Probe>,
    /// Further folders that are emptied, beside the lease's own.
    pub folders: Vec<String>,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanStep {
    /// Unique within the plan; the receipt answers by it.
    pub name: Arc<str>,
    /// What is done.
    pub kind: StepKind,
    /// How long one try may take.
    pub timeout: Millis,
    /// Further tries within the same run.
    pub retries: u32,
    /// What must be observed afterwards.
    pub post_condition: PostCondition,
    /// Kind-specific settings, for example `path` or `command`.
    pub parameters: BTreeMap<String, String>,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StepKind {
    /// TERM, grace, KILL for the lease's processes.
    Stop,
    /// Find and stop processes that left the lease's tree.
    Strays,
    /// Unmount below the roots.
    Mounts,
    /// Remove the lease's folder and the pool's folders.
    Files,
    /// Remove temporary files, shared memory and IPC objects.
    Temp,
    /// Run the pool's own command.
    Hook,
    /// Compare with the worker's baseline.
    Baseline,
    /// A kind of a newer version.
    Other(String),
}

/// What must be observed after a step.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PostCondition {
    /// No process of the lease is left.
    NoProcesses,
    /// No mount is left below the roots.
    NoMounts,
    /// No file is left.
    NoFiles,
    /// The command ended with status 0.
    ExitZero,
    /// Nothing differs from the baseline.
    MatchesBaseline,
    /// A condition of a newer version.
    Other(String),
}

/// A health probe with the fields that Kubernetes gives its probes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Unique within the plan.
    pub name: Arc<str>,
    /// What is asked.
    pub action: ProbeAction,
    /// Wait before the first try.
    pub initial_delay: Millis,
    /// Between tries.
    pub period: Millis,
    /// For one try.
    pub timeout: Millis,
    /// Consecutive successes that pass.
    pub success_threshold: u32,
    /// Consecutive failures that fail.
    pub failure_threshold: u32,
}

/// What a probe asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeAction {
    /// The address accepts a connection.
    Tcp {
        /// `host:port`.
        address: String,
    },
    /// The URL answers 200 to 399.
    Http {
        /// The URL.
        url: String,
    },
    /// The command ends with status 0.
    Exec {
        /// The command and its arguments.
        command: Vec<String>,
    },
    /// grpc.health.v1 answers SERVING.
    Grpc {
        /// `host:port`.
        address: String,
        /// The service asked about; empty is the whole server.
        service: String,
    },
}

/// Bounds of health; a measure whose bound is set must be in the receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thresholds {
    /// Free bytes on the disk of the roots.
    pub disk_free_bytes_min: Option<u64>,
    /// Free share of that disk, in permille.
    pub disk_free_permille_min: Option<u64>,
    /// Free share of its inodes, in permille.
    pub inodes_free_permille_min: Option<u64>,
    /// Available memory in bytes.
    pub memory_available_bytes_min: Option<u64>,
    /// CPU pressure now (some), in hundredths of a percent.
    pub cpu_pressure_centipercent_max: Option<u64>,
    /// Runnable tasks now per CPU, in permille.
    pub runnable_per_cpu_permille_max: Option<u64>,
    /// Distance of the host's wall clock from the cluster's, in milliseconds.
    pub clock_skew_ms_max: Option<u64>,
}

/// What was measured, in whole numbers; `None` was not measured.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Measures {
    /// See [`Thresholds::disk_free_bytes_min`].
    pub disk_free_bytes: Option<u64>,
    /// See [`Thresholds::disk_free_permille_min`].
    pub disk_free_permille: Option<u64>,
    /// See [`Thresholds::inodes_free_permille_min`]; 1000 where the file system does not count inodes.
    pub inodes_free_permille: Option<u64>,
    /// See [`Thresholds::memory_available_bytes_min`].
    pub memory_available_bytes: Option<u64>,
    /// See [`Thresholds::cpu_pressure_centipercent_max`].
    pub cpu_pressure_centipercent: Option<u64>,
    /// Memory pressure now, for people.
    pub memory_pressure_centipercent: Option<u64>,
    /// IO pressure now, for people.
    pub io_pressure_centipercent: Option<u64>,
    /// See [`Thresholds::runnable_per_cpu_permille_max`].
    pub runnable_per_cpu_permille: Option<u64>,
    /// Load average of one minute, in permille; never judged.
    pub load1_permille: Option<u64>,
    /// See [`Thresholds::clock_skew_ms_max`].
    pub clock_skew_ms: Option<u64>,
}

/// What the agent observed in one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The generation of the plan that was carried out.
    pub generation: u64,
    /// One per step of the plan, in its order; further ones are kept.
    pub steps: Vec<StepReceipt>,
    /// What was measured.
    pub measures: Measures,
    /// One per probe.
    pub checks: Vec<CheckReceipt>,
    /// Something was found that other workers of this agent share, so they must be cleaned too.
    pub shared_residue: bool,
    /// What this host cannot do, by name.
    pub missing_capabilities: Vec<String>,
    /// From the first step to the last probe.
    pub took: Millis,
}

/// What was observed of one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReceipt {
    /// The step's name in the plan.
    pub name: Arc<str>,
    /// How the action ended.
    pub outcome: StepOutcome,
    /// The post-condition was observed to hold.
    pub observed: bool,
    /// Tries made.
    pub tries: u32,
    /// How long it took.
    pub took: Millis,
    /// Things removed: processes, files, mounts.
    pub removed: u64,
    /// Things observed to be left.
    pub left: u64,
    /// What was seen, for people.
    pub evidence: Evidence,
}

/// How a step's action ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StepOutcome {
    /// It came to its end.
    Done,
    /// It failed.
    Failed,
    /// It ran out of time.
    TimedOut,
    /// The host lacks what it needs.
    Unsupported,
    /// Not reached.
    Skipped,
    /// An outcome of a newer version.
    Other(String),
}

/// What one probe said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReceipt {
    /// The probe's name in the plan.
    pub name: Arc<str>,
    /// Whether it passed.
    pub passed: bool,
    /// How long it took.
    pub took: Millis,
    /// What was seen, for people.
    pub evidence: Evidence,
}

/// Bounded text for people.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Evidence(pub String);

impl Evidence {
    /// Keeps the first [`EVIDENCE_BYTES_MAX`](limits::EVIDENCE_BYTES_MAX) bytes, cut at a character.
    pub fn new(text: impl Into<String>) -> Self {
        let mut text = text.into();
        text.truncate(text.floor_char_boundary(limits::EVIDENCE_BYTES_MAX));
        Self(text)
    }
}

impl CleaningPlan {
    /// Only the stop steps: what a broken or held worker goes through.
    #[must_use]
    pub fn stop_only(&self) -> Self {
        let steps = self.steps.iter().filter(|step| step.kind == StepKind::Stop).cloned().collect();
        Self { steps, probes: Vec::new(), folders: Vec::new() }
    }

    /// The longest that all steps may take with their retries.
    pub fn budget(&self) -> Millis {
        let tries = |step: &PlanStep| step.timeout.0.saturating_mul(u64::from(step.retries) + 1);
        Millis(self.steps.iter().map(tries).fold(0, u64::saturating_add))
    }
}

impl Default for CleaningPlan {
    /// Stop, strays, mounts, files, temp: 45 s in all, so that measures and probes fit into the default `cleaning.timeout` of 60 s.
    fn default() -> Self {
        let step = |name: &str, kind: StepKind, seconds: u64, post_condition: PostCondition| PlanStep {
            name: name.into(),
            kind,
            timeout: Millis::secs(seconds),
            retries: 0,
            post_condition,
            parameters: BTreeMap::new(),
        };
        let steps = vec![
            step("stop", StepKind::Stop, 15, PostCondition::NoProcesses),
            step("strays", StepKind::Strays, 5, PostCondition::NoProcesses),
            step("mounts", StepKind::Mounts, 5, PostCondition::NoMounts),
            step("files", StepKind::Files, 15, PostCondition::NoFiles),
            step("temp", StepKind::Temp, 5, PostCondition::NoFiles),
        ];
        Self { steps, probes: Vec::new(), folders: Vec::new() }
    }
}

impl Default for Thresholds {
    /// Disk 256 MiB and 2 %, inodes 2 %, memory 64 MiB; load and clock are measured but not judged.
    fn default() -> Self {
        Self {
            disk_free_bytes_min: Some(256 << 20),
            disk_free_permille_min: Some(20),
            inodes_free_permille_min: Some(20),
            memory_available_bytes_min: Some(64 << 20),
            cpu_pressure_centipercent_max: None,
            runnable_per_cpu_permille_max: None,
            clock_skew_ms_max: None,
        }
    }
}

impl fmt::Display for StepKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(name) => f.write_str(name),
            Self::Stop | Self::Strays | Self::Mounts | Self::Files | Self::Temp | Self::Hook | Self::Baseline => {
                fmt::Debug::fmt(self, f)
            }
        }
    }
}
