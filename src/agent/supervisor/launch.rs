//! The binary, started again for another purpose: as a supervisor, or to enter a group before a command.
//!
//! What must happen between fork and exec (a session, a group) would need unsafe code there. Instead this very binary is
//! executed with a hidden first argument, does it as its first act, and goes on or calls exec.
//!
//! Invariants
//! * The running image is what is started, also after the file was replaced by an upgrade.
//!
//! Never here: which process may do what.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::process::ExitCode;

use serde::Deserialize;
use serde::Serialize;

use crate::cgroup::Cgroup;
use crate::supervisor::serve;

/// The first argument by which `main` knows that it is to call [`supervisor_main`].
pub const HIDDEN: &str = "__supervise";

/// Ends of commands that could not be started, as shells have them.
pub(crate) const NOT_EXECUTABLE: u8 = 126;
pub(crate) const NOT_FOUND: u8 = 127;

/// How this binary is started again.
#[derive(Debug, Clone)]
pub struct Launcher {
    program: PathBuf,
    arguments: Vec<OsString>,
}

/// What the new process is to do; its last argument, as JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Errand {
    /// Supervise the job whose lease's folder this is.
    Supervise { folder: PathBuf },
    /// Begin a session, enter a group, and become this command.
    Enter { group: Option<PathBuf>, command: Vec<String> },
}

impl Launcher {
    /// The running image, with [`HIDDEN`] as its first argument.
    pub fn own() -> Self {
        Self::new("/proc/self/exe", [HIDDEN])
    }

    /// Another program, or other arguments, by which [`supervisor_main`] is reached; the errand follows as the last one.
    pub fn new(program: impl Into<PathBuf>, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self { program: program.into(), arguments: arguments.into_iter().map(Into::into).collect() }
    }

    pub(crate) fn command(&self, errand: &Errand) -> io::Result<Command> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).arg(serde_json::to_string(errand).map_err(io::Error::other)?);
        Ok(command)
    }
}

/// What the binary does when its first argument is [`HIDDEN`]; call it before anything else, above all before threads.
pub fn supervisor_main() -> ExitCode {
    let errand = std::env::args_os().next_back().and_then(|last| last.into_string().ok());
    match errand.as_deref().map(serde_json::from_str) {
        Some(Ok(Errand::Supervise { folder })) => serve::supervise(&folder),
        Some(Ok(Errand::Enter { group, command })) => enter(group, &command),
        Some(Err(_)) | None => {
            eprintln!("{HIDDEN} is for remuda's own use");
            ExitCode::from(2)
        }
    }
}

fn enter(group: Option<PathBuf>, command: &[String]) -> ExitCode {
    // A leader of a process group cannot begin a session, and need not.
    let _ = rustix::process::setsid();
    if let Some(group) = group
        && let Err(error) = Cgroup::at(group.clone()).enter()
    {
        eprintln!("{}: {error}", group.display());
        return ExitCode::from(NOT_EXECUTABLE);
    }
    let Some((program, arguments)) = command.split_first() else {
        eprintln!("no command");
        return ExitCode::from(NOT_FOUND);
    };
    let error = Command::new(program).args(arguments).exec();
    eprintln!("{program}: {error}");
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE })
}
