//! The signals that reach a job: by number through the lease's fifo, or through its supervisor.
//!
//! Invariants
//! * Only numbers that this kernel names are passed on.
//!
//! Never here: whom a signal goes to.

use std::io;

use rustix::process::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

/// Signals that can be sent to a job.
const SIGNALS: [Signal; 31] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::ILL,
    Signal::TRAP,
    Signal::ABORT,
    Signal::BUS,
    Signal::FPE,
    Signal::KILL,
    Signal::USR1,
    Signal::SEGV,
    Signal::USR2,
    Signal::PIPE,
    Signal::ALARM,
    Signal::TERM,
    Signal::STKFLT,
    Signal::CHILD,
    Signal::CONT,
    Signal::STOP,
    Signal::TSTP,
    Signal::TTIN,
    Signal::TTOU,
    Signal::URG,
    Signal::XCPU,
    Signal::XFSZ,
    Signal::VTALARM,
    Signal::PROF,
    Signal::WINCH,
    Signal::IO,
    Signal::POWER,
    Signal::SYS,
];

/// The signal with this number.
pub(crate) fn known_signal(number: u8) -> Option<Signal> {
    SIGNALS.into_iter().find(|signal| signal.as_raw() == i32::from(number))
}

/// Signals to the supervisor that are meant for the job.
pub(crate) struct Signals {
    listened: Vec<(u8, tokio::signal::unix::Signal)>,
}

impl Signals {
    /// Listens for those that a host sends to its daemons.
    pub(crate) fn listen() -> io::Result<Self> {
        let passed = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM, Signal::USR1, Signal::USR2];
        let listened = passed.into_iter().map(|passed| {
            let number = passed.as_raw();
            let kind = SignalKind::from_raw(number);
            Ok((u8::try_from(number).map_err(io::Error::other)?, signal(kind)?))
        });
        Ok(Self { listened: listened.collect::<io::Result<_>>()? })
    }

    /// The number of the next one.
    pub(crate) async fn next(&mut self) -> u8 {
        std::future::poll_fn(|context| {
            for (number, signal) in &mut self.listened {
                if signal.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}
