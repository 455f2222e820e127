//! Sessions: an agent is present, falls silent, comes back.
//!
//! Invariants
//! * An agent has at most one live session; opening one ends the earlier in the same entry.
//! * Every open run of the agent's workers is replaced by the new session, or lost with the old one.
//! * An agent's row lives as long as it has a session or a worker's row.

use std::collections::BTreeSet;

use crate::agent::Agent;
use crate::command::OpenSession;
use crate::event::{Fact, Note};
use crate::id::{SessionId, WorkerId};
use crate::limits;
use crate::outcome::{Outcome, Registration, SessionOpened};
use crate::refusal::Refusal;
use crate::row::encode;
use crate::worker::{StateKind, WorkerState};

use super::entry::{Entry, Violations};

impl Entry<'_> {
    pub(super) fn open_session(&mut self, open: &OpenSession) -> Result<Outcome, Refusal> {
        judge(open)?;
        let opening = *blake3::hash(&encode(open)).as_bytes().split_first_chunk().expect("a hash has 32 bytes").0;
        let known = self.state.agents.get(&open.agent);
        if let Some(agent) = known {
            let same = agent.incarnation == open.incarnation && agent.opening == opening && agent.key == open.key;
            if let Some(session) = agent.session.filter(|_| same) {
                return Ok(self.session_answer(open, session));
            }
            judge_agent(agent, open)?;
        }
        let replaced = known.and_then(|agent| agent.session);
        let rebooted = known.is_some_and(|agent| agent.boot != open.boot);
        let session = SessionId(self.state.draw().0);
        if let Some(replaced) = replaced {
            self.state.index.sessions.remove(&replaced);
        }
        self.state.index.sessions.insert(session, open.agent.clone());
        self.state.agents.put(open.agent.clone(), agent_row(open, opening, session, self.moment));
        self.note(Fact::SessionOpened { agent: open.agent.clone(), session, replaced });
        let named: BTreeSet<_> = open.workers.iter().map(|presence| &presence.worker).collect();
        if let Some(replaced) = replaced {
            for worker in self.served_in(&open.agent, replaced) {
                if !named.contains(&worker) {
                    self.leave_behind(&worker);
                }
            }
        }
        let register = |presence| {
            let result = self.present(open, presence, session, rebooted);
            Registration { worker: presence.worker.clone(), result }
        };
        let workers = open.workers.iter().map(register).collect();
        Ok(Outcome::SessionOpened(SessionOpened { session, revision: self.moment.revision, workers }))
    }

    /// The answer to an open that was accepted before.
    fn session_answer(&self, open: &OpenSession, session: SessionId) -> Outcome {
        let revision = self.state.agents.get(&open.agent).map_or_else(Default::default, |agent| agent.opened.revision);
        let answer = |presence: &crate::command::WorkerPresence| {
            let worker = self.state.workers.get(&presence.worker);
            let result = match worker.filter(|worker| worker.session == Some(session)) {
                Some(worker) => Ok(worker.state.kind()),
                None => match self.judge_presence(open, presence) {
                    Err(refusal) => Err(refusal),
                    Ok(_) => Err(Refusal::SessionEnded { session, current: None }),
                },
            };
            Registration { worker: presence.worker.clone(), result }
        };
        let workers = open.workers.iter().map(answer).collect();
        Outcome::SessionOpened(SessionOpened { session, revision, workers })
    }

    pub(super) fn end_session(&mut self, session: SessionId) -> Result<Outcome, Refusal> {
        let agent = self.state.agent_of(session).cloned();
        let agent = agent.ok_or(Refusal::SessionEnded { session, current: None })?;
        self.note(Fact::SessionEnded { agent: agent.clone(), session });
        for worker in self.served_in(&agent, session) {
            self.leave_behind(&worker);
        }
        self.state.agents.edit(&agent).expect("a session has an agent").session = None;
        self.state.index.sessions.remove(&session);
        self.state.forget_agent(&agent);
        Ok(Outcome::SessionEnded { session })
    }

    fn served_in(&self, agent: &crate::id::AgentId, session: SessionId) -> Vec<WorkerId> {
        let served = self.state.workers_of(agent).filter(|worker| worker.session == Some(session));
        served.map(|worker| worker.id.clone()).collect()
    }

    /// A worker's session is over and no other has taken it on.
    fn leave_behind(&mut self, id: &WorkerId) {
        let worker = self.state.workers.get(id).expect("the caller has found the worker");
        match worker.state.kind() {
            StateKind::Cleaning | StateKind::Ready | StateKind::Available => self.silence(id),
            StateKind::Busy => {
                let epoch = worker.token;
                self.state.change_worker(id, |worker| worker.session = None);
                self.note_worker(id, Note::AgentSilent { epoch });
            }
            StateKind::Maintenance => {
                let lost_at = self.now() + self.spec(id).retention.lost;
                self.state.change_worker(id, |worker| {
                    worker.session = None;
                    if let WorkerState::Maintenance(maintenance) = &mut worker.state {
                        maintenance.lost_at = Some(lost_at);
                    }
                });
            }
            StateKind::Lost | StateKind::Retired => self.state.change_worker(id, |worker| worker.session = None),
        }
    }
}

/// Refuses an open whose fields break their bounds.
fn judge(open: &OpenSession) -> Result<(), Refusal> {
    let mut violations = Violations::default();
    violations.name("agent", open.agent.as_str(), limits::ID_BYTES_MAX);
    violations.at_most("workers", open.workers.len() as u64, limits::WORKERS_PER_AGENT_MAX as u64);
    let texts = [("machine", &open.machine), ("boot", &open.boot), ("endpoint", &open.endpoint)];
    for (field, text) in texts.into_iter().chain([("version", &open.version)]) {
        violations.at_most(field, text.len() as u64, limits::ID_BYTES_MAX as u64);
    }
    for (field, names) in [("capabilities", &open.capabilities), ("missing_capabilities", &open.missing_capabilities)] {
        violations.at_most(field, names.len() as u64, limits::LABELS_MAX as u64);
        let longest = names.iter().map(|name| name.len()).max().unwrap_or(0);
        violations.at_most(field, longest as u64, limits::ID_BYTES_MAX as u64);
    }
    for presence in &open.workers {
        violations.name("workers.name", &presence.worker.name, limits::NAME_BYTES_MAX);
        violations.at_most("workers.labels", presence.labels.len() as u64, limits::LABELS_MAX as u64);
        violations.at_most("workers.annotations", presence.annotations.len() as u64, limits::LABELS_MAX as u64);
    }
    let names: BTreeSet<_> = open.workers.iter().map(|presence| &presence.worker).collect();
    if names.len() < open.workers.len() {
        violations.add("workers", "must be distinct".into());
    }
    violations.refuse()
}

/// Refuses an agent that is not the one that is known, or speaks from the past.
fn judge_agent(agent: &Agent, open: &OpenSession) -> Result<(), Refusal> {
    let id = || agent.id.clone();
    if agent.key != open.key {
        return Err(Refusal::AgentKeyMismatch { agent: id() });
    }
    if agent.session.is_some() && agent.machine != open.machine {
        return Err(Refusal::AgentDuplicated { agent: id() });
    }
    if open.incarnation <= agent.incarnation {
        let (presented, last) = (open.incarnation, agent.incarnation);
        return Err(Refusal::StaleIncarnation { agent: id(), presented, last });
    }
    Ok(())
}

fn agent_row(open: &OpenSession, opening: [u8; 16], session: SessionId, opened: crate::time::Moment) -> Agent {
    Agent {
        id: open.agent.clone(),
        key: open.key,
        incarnation: open.incarnation,
        opening,
        machine: open.machine.clone(),
        boot: open.boot.clone(),
        endpoint: open.endpoint.clone(),
        capabilities: open.capabilities.clone(),
        missing_capabilities: open.missing_capabilities.clone(),
        version: open.version.clone(),
        session: Some(session),
        opened,
    }
}
