//! The guest's command line: what the user gave, and how the bundled kernel's shell gets its commands.

use super::status::{Failure, Status};

/// Where the shell's commands come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commands<'a> {
    /// `--exec`: they travel on the command line.
    Given(&'a str),
    /// A terminal: somebody types.
    Typed,
    /// Something else as stdin: it is typed to the shell up to its end.
    Piped,
}

impl Commands<'_> {
    /// What is left of them for a guest that has rebooted: given ones were run, and once is enough.
    pub fn after_a_reboot(self) -> Self {
        match self {
            Self::Given(_) => Self::Given(""),
            other => other,
        }
    }
}

/// Puts the command line together.
pub fn compose(given: &str, commands: Commands<'_>) -> Result<String, Failure> {
    let word = match commands {
        Commands::Given(exec) if exec.contains('"') => {
            let message = "--exec: a double quote would end the commands early".into();
            return Err(Failure { status: Status::Usage, message });
        }
        Commands::Given(exec) => format!("exec=\"{exec}\""),
        Commands::Piped => "stdin=pipe".into(),
        Commands::Typed => String::new(),
    };
    Ok(format!("{given} {word}").trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_come_last() {
        assert_eq!(compose("quiet", Commands::Given("a; b")).unwrap(), "quiet exec=\"a; b\"");
        assert_eq!(compose("", Commands::Given("")).unwrap(), "exec=\"\"");
        assert_eq!(compose("", Commands::Piped).unwrap(), "stdin=pipe");
        assert_eq!(compose("quiet", Commands::Typed).unwrap(), "quiet");
        assert_eq!(compose("", Commands::Given("echo \"")).unwrap_err().status, Status::Usage);
    }
}
