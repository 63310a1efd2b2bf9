//! The guest's command line: what the user gave, and how the bundled kernel's shell gets its commands.

use super::spec::Spec;
use crate::cli::status::Failure;

/// Where the shell's commands come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commands<'a> {
    /// `--exec`: they travel on the command line.
    Given(&'a str),
    /// A terminal: somebody types.
    Typed,
    /// Something else as stdin: it is typed to the shell up to its end.
    Piped,
    /// Nothing comes from stdin, and it has no end.
    Nobody,
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

/// Puts the command line together. No kernel but the bundled one gets a word that its user has not given.
pub fn compose(spec: &Spec, commands: Commands<'_>) -> Result<String, Failure> {
    if !spec.is_bundled() {
        return Ok(spec.cmdline.clone());
    }
    let word = match commands {
        Commands::Given(exec) if exec.contains('"') => {
            return Err(spec.origin.nonsense("exec", "a double quote would end the commands early"));
        }
        Commands::Given(exec) => format!("exec=\"{exec}\""),
        Commands::Piped | Commands::Nobody => "stdin=pipe".into(),
        Commands::Typed => String::new(),
    };
    Ok(format!("{} {word}", spec.cmdline).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::cli::guests::spec::Origin;
    use crate::cli::status::Status;
    use hypervisor::builder::Amount;

    fn spec(cmdline: &str) -> Spec {
        Spec {
            origin: Origin::Options,
            name: "guest".into(),
            kernel: None,
            ramdisk: None,
            cmdline: cmdline.into(),
            memory: Amount(1),
            vcpus: 1,
            disks: Vec::new(),
            exec: None,
        }
    }

    fn composed(cmdline: &str, commands: Commands<'_>) -> Result<String, Status> {
        compose(&spec(cmdline), commands).map_err(|failure| failure.status)
    }

    #[test]
    fn another_kernel_gets_what_its_user_gives_and_nothing_else() {
        let spec = Spec { kernel: Some("vmlinuz".into()), ..spec(" root=/dev/xvda  quiet") };
        for commands in [Commands::Typed, Commands::Piped, Commands::Nobody, Commands::Given("")] {
            let line = compose(&spec, commands).map_err(|failure| failure.message);
            assert_eq!(line, Ok(" root=/dev/xvda  quiet".into()), "{commands:?}");
        }
    }

    #[test]
    fn commands_come_last() {
        assert_eq!(composed("quiet", Commands::Given("a; b")).unwrap(), "quiet exec=\"a; b\"");
        assert_eq!(composed("", Commands::Given("")).unwrap(), "exec=\"\"");
        assert_eq!(composed("", Commands::Piped).unwrap(), "stdin=pipe");
        assert_eq!(composed("", Commands::Nobody).unwrap(), "stdin=pipe");
        assert_eq!(composed("quiet", Commands::Typed).unwrap(), "quiet");
        assert_eq!(composed("", Commands::Given("echo \"")), Err(Status::Usage));
    }
}
