//! Pools: settings, counts, figures.

use std::collections::BTreeSet;

use prost_types::FieldMask;
use remuda_registry::plan::{CleaningPlan, Thresholds};
use remuda_registry::pool::{Policy, Pool, PoolSpec};
use remuda_registry::{Millis, PoolId};

use super::{Violations, duration, limits, plan};
use crate::{name, v1};

/// What a pool is made of, from CreatePool.
///
/// # Errors
/// All violations.
pub fn create_in(request: &v1::CreatePoolRequest) -> Result<(PoolId, PoolSpec), Violations> {
    let mut found = Violations::default();
    let pool = found.take("pool_id", name::pool_id(&request.pool_id));
    let spec = spec_in(&mut found, "spec", request.spec.as_ref().unwrap_or(&v1::PoolSpec::default()));
    found.finish(pool.map(|pool| (pool, spec)))
}

/// The pool that UpdatePool names, and the etag it presents.
///
/// # Errors
/// All violations, those of the settings included.
pub fn update_in(request: &v1::UpdatePoolRequest) -> Result<(PoolId, Option<u64>), Violations> {
    let mut found = Violations::default();
    let given = request.pool.clone().unwrap_or_default();
    let pool = found.take("pool.name", name::pool(&given.name));
    let etag = found.etag("pool.etag", &given.etag);
    let whole = v1::PoolSpec::default();
    mask_in(&mut found, request.update_mask.as_ref());
    spec_in(&mut found, "pool.spec", given.spec.as_ref().unwrap_or(&whole));
    found.finish(pool.map(|pool| (pool, etag)))
}

/// The settings after UpdatePool: those of `now` with the masked fields of the request.
///
/// # Errors
/// All violations of the merged settings.
pub fn merged(request: &v1::UpdatePoolRequest, now: &PoolSpec) -> Result<PoolSpec, Violations> {
    let given = request.pool.clone().unwrap_or_default().spec.unwrap_or_default();
    let mask: Vec<&str> = request.update_mask.iter().flat_map(|mask| mask.paths.iter().map(String::as_str)).collect();
    let merged = if mask.is_empty() || mask.contains(&"*") { given } else { masked(&given, spec_out(now), &mask) };
    let mut found = Violations::default();
    let spec = spec_in(&mut found, "pool.spec", &merged);
    found.finish(Some(spec))
}

/// The fields that a mask may name.
const MASKED: [&str; 10] = [
    "description",
    "choice",
    "lease",
    "cleaning",
    "health",
    "ready_max_age",
    "idle_check",
    "max_uses",
    "max_age",
    "priority_max",
];

fn mask_in(found: &mut Violations, mask: Option<&FieldMask>) {
    for path in mask.iter().flat_map(|mask| mask.paths.iter()) {
        let known = path == "*" || MASKED.contains(&path.as_str());
        found.require(known, "update_mask", &format!("{path:?} is not a field of spec; fields are replaced whole"));
    }
}

fn masked(given: &v1::PoolSpec, mut now: v1::PoolSpec, mask: &[&str]) -> v1::PoolSpec {
    for path in mask {
        match *path {
            "description" => now.description.clone_from(&given.description),
            "choice" => now.choice = given.choice,
            "lease" => now.lease = given.lease,
            "cleaning" => now.cleaning.clone_from(&given.cleaning),
            "health" => now.health.clone_from(&given.health),
            "ready_max_age" => now.ready_max_age = given.ready_max_age,
            "idle_check" => now.idle_check = given.idle_check,
            "max_uses" => now.max_uses = given.max_uses,
            "max_age" => now.max_age = given.max_age,
            "priority_max" => now.priority_max = given.priority_max,
            _ => {}
        }
    }
    now
}

fn spec_in(found: &mut Violations, field: &str, spec: &v1::PoolSpec) -> PoolSpec {
    let mut made = PoolSpec::default();
    let mut part = Violations::default();
    made.description = part.text("description", &spec.description, limits::DESCRIPTION_MAX).to_string();
    match v1::Choice::try_from(spec.choice) {
        Ok(v1::Choice::Unspecified | v1::Choice::LeastRecentlyUsed) => made.policy = Policy::LeastRecentlyUsed,
        Ok(v1::Choice::MostRecentlyUsed) => made.policy = Policy::MostRecentlyUsed,
        Ok(v1::Choice::LeastUsed) => made.policy = Policy::LeastUsed,
        Err(_) => part.add("choice", "must be a choice of this version"),
    }
    made.priority_max = spec.priority_max;
    set(&mut part, "ready_max_age", spec.ready_max_age.as_ref(), &mut made.ready_max_age);
    made.idle_check = part.duration("idle_check", spec.idle_check.as_ref());
    made.reuse.max_uses = Some(spec.max_uses).filter(|uses| *uses > 0);
    made.reuse.max_age = part.duration("max_age", spec.max_age.as_ref());
    if let Some(lease) = &spec.lease {
        set(&mut part, "lease.ttl", lease.ttl.as_ref(), &mut made.lease.ttl);
        set(&mut part, "lease.max", lease.max.as_ref(), &mut made.lease.max);
        set(&mut part, "lease.stop_grace", lease.stop_grace.as_ref(), &mut made.cleaning.stop_grace);
    }
    cleaning_in(&mut part, spec.cleaning.as_ref().unwrap_or(&v1::CleaningSettings::default()), &mut made);
    if let Some(health) = &spec.health {
        health_in(&mut part, health, &mut made);
    }
    let told: BTreeSet<String> = part.0.iter().map(|violation| violation.field.clone()).collect();
    for violation in made.violations() {
        let path = public_path(&violation.field);
        if !told.contains(path) {
            part.add(path, violation.why);
        }
    }
    found.below(field, part);
    made
}

/// Where the message has what the registry calls `field`.
fn public_path(field: &str) -> &str {
    match field {
        "cleaning.stop_grace" => "lease.stop_grace",
        "plan.steps" => "cleaning.steps",
        "plan.probes" => "health.probes",
        "plan.folders" => "cleaning.folders",
        "reuse.max_uses" => "max_uses",
        "reuse.max_age" => "max_age",
        other => other,
    }
}

fn set(found: &mut Violations, field: &str, given: Option<&prost_types::Duration>, place: &mut Millis) {
    if let Some(millis) = found.duration(field, given) {
        *place = millis;
    }
}

fn cleaning_in(found: &mut Violations, cleaning: &v1::CleaningSettings, made: &mut PoolSpec) {
    let rules = &mut made.cleaning;
    set(found, "cleaning.start_within", cleaning.start_within.as_ref(), &mut rules.start_within);
    set(found, "cleaning.queue_max", cleaning.queue_max.as_ref(), &mut rules.queue_max);
    set(found, "cleaning.timeout", cleaning.timeout.as_ref(), &mut rules.timeout);
    set(found, "cleaning.backoff", cleaning.backoff.as_ref(), &mut rules.backoff);
    set(found, "cleaning.backoff_max", cleaning.backoff_max.as_ref(), &mut rules.backoff_max);
    if cleaning.backoff_max.is_none() {
        rules.backoff_max = rules.backoff_max.max(rules.backoff);
    }
    if cleaning.attempts > 0 {
        rules.attempts = cleaning.attempts;
    }
    if cleaning.steps.is_empty() {
        made.plan = default_plan(rules.timeout);
    } else {
        made.plan.steps = plan::steps_in(found, "cleaning.steps", &cleaning.steps);
    }
    made.plan.folders = plan::folders_in(found, "cleaning.folders", &cleaning.folders);
}

/// The default plan; where `timeout` is below the default of a minute its steps' timeouts shrink with it.
fn default_plan(timeout: Millis) -> CleaningPlan {
    let minute = Millis::mins(1).0;
    let mut plan = CleaningPlan::default();
    for step in &mut plan.steps {
        step.timeout = Millis((step.timeout.0 * timeout.0.min(minute) / minute).max(1));
    }
    plan
}

fn health_in(found: &mut Violations, health: &v1::HealthSettings, made: &mut PoolSpec) {
    let default = Thresholds::default();
    let permille = |value: Option<u32>| value.map(u64::from);
    for (field, value) in [
        ("health.disk_free_permille", health.disk_free_permille),
        ("health.inodes_free_permille", health.inodes_free_permille),
    ] {
        found.require(value.is_none_or(|value| value <= 1_000), field, "must be at most 1000");
    }
    made.thresholds = Thresholds {
        disk_free_bytes_min: health.disk_free_bytes.or(default.disk_free_bytes_min),
        disk_free_permille_min: permille(health.disk_free_permille).or(default.disk_free_permille_min),
        inodes_free_permille_min: permille(health.inodes_free_permille).or(default.inodes_free_permille_min),
        memory_available_bytes_min: health.memory_available_bytes.or(default.memory_available_bytes_min),
        runnable_per_cpu_permille_max: permille(health.runnable_per_cpu_permille),
        ..default
    };
    made.plan.probes = plan::probes_in(found, "health.probes", &health.probes);
}

/// Settings as a message has them, with every default written out.
pub fn spec_out(spec: &PoolSpec) -> v1::PoolSpec {
    let choice = match spec.policy {
        Policy::LeastRecentlyUsed => v1::Choice::LeastRecentlyUsed,
        Policy::MostRecentlyUsed => v1::Choice::MostRecentlyUsed,
        Policy::LeastUsed => v1::Choice::LeastUsed,
    };
    let rules = &spec.cleaning;
    let small = |value: Option<u64>| value.map(|value| u32::try_from(value).unwrap_or(u32::MAX));
    v1::PoolSpec {
        description: spec.description.clone(),
        choice: choice.into(),
        lease: Some(v1::LeaseSettings {
            ttl: Some(duration(spec.lease.ttl)),
            max: Some(duration(spec.lease.max)),
            stop_grace: Some(duration(rules.stop_grace)),
        }),
        cleaning: Some(v1::CleaningSettings {
            start_within: Some(duration(rules.start_within)),
            queue_max: Some(duration(rules.queue_max)),
            timeout: Some(duration(rules.timeout)),
            attempts: rules.attempts,
            backoff: Some(duration(rules.backoff)),
            backoff_max: Some(duration(rules.backoff_max)),
            steps: plan::steps_out(&spec.plan.steps),
            folders: spec.plan.folders.clone(),
        }),
        health: Some(v1::HealthSettings {
            disk_free_bytes: spec.thresholds.disk_free_bytes_min,
            disk_free_permille: small(spec.thresholds.disk_free_permille_min),
            inodes_free_permille: small(spec.thresholds.inodes_free_permille_min),
            memory_available_bytes: spec.thresholds.memory_available_bytes_min,
            runnable_per_cpu_permille: small(spec.thresholds.runnable_per_cpu_permille_max),
            probes: plan::probes_out(&spec.plan.probes),
        }),
        ready_max_age: Some(duration(spec.ready_max_age)),
        idle_check: spec.idle_check.map(duration),
        max_uses: spec.reuse.max_uses.unwrap_or(0),
        max_age: spec.reuse.max_age.map(duration),
        priority_max: spec.priority_max,
    }
}

/// Counts by state, in the order of [`StateKind::ALL`](remuda_registry::worker::StateKind::ALL).
pub fn counts_out(by_state: [u32; 7]) -> v1::WorkerCounts {
    let [cleaning, ready, available, busy, maintenance, lost, retired] = by_state;
    v1::WorkerCounts { cleaning, ready, available, busy, maintenance, lost, retired }
}

/// A pool as a message has it.
pub fn pool_out(pool: &Pool, by_state: [u32; 7], waiting: u32) -> v1::Pool {
    v1::Pool {
        name: name::pool_name(&pool.id),
        etag: pool.generation.to_string(),
        spec: Some(spec_out(&pool.spec)),
        workers: Some(counts_out(by_state)),
        waiting,
        generation: pool.generation,
    }
}
