//! What can be said on the command line.

use crate::cli::guests::disk::{self, DiskSpec};
use crate::cli::guests::domain_file;
use crate::cli::guests::size;
use crate::cli::guests::spec::{DEFAULT_MEMORY, Origin, Spec};
use crate::cli::status::Failure;
use clap::{Parser, Subcommand};
use hypervisor::builder::Amount;
use hypervisor::control::MAX_VCPUS;
use std::path::PathBuf;

/// Paravane boots paravirtual guests on /dev/kvm, speaking Xen's PV ABI.
///
/// Without a command it runs the bundled guest kernel.
#[derive(Debug, Parser)]
#[command(name = "paravane", version, args_conflicts_with_subcommands = true, after_help = STATUS_HELP)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

const STATUS_HELP: &str = "\
Exit status: 0 fine; 1 configuration or host; 2 usage; 3 the guest crashed; 4 the guest ended with a failure, or \
rebooted over and over; 128+n ended by signal n.
PARAVANE_LOG=debug traces what the hypervisor does, on stderr.";

impl Args {
    /// How much is to be logged: 0, 1 or more.
    pub fn verbosity(&self) -> u8 {
        match &self.command {
            Some(Command::Run(run)) => run.options.verbose,
            Some(_) => 0,
            None => self.run.verbose,
        }
    }

    /// The command; without one, `run`.
    pub fn into_command(self) -> Command {
        self.command.unwrap_or(Command::Run(RunCommand { options: self.run, domains: Vec::new() }))
    }
}

/// The commands of the command line, each with its options.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot a guest, or several; their console is this terminal, Ctrl-] leaves, Ctrl-A and a digit turns to another
    Run(RunCommand),
    /// Say what this host's KVM is like, and what is missing
    Check(CheckArgs),
    /// Write the bundled guest kernel to a file
    Kernel(KernelArgs),
    /// Measure what things cost here, next to the least that they could cost
    Bench(BenchArgs),
    /// Look into the xenstore of a Paravane that is running
    Xs(XsArgs),
    /// Write the manual, a page for each command
    Man(ManArgs),
    /// Print what a shell completes this command line with
    Completions(CompletionsArgs),
}

/// What is said to `paravane run`.
#[derive(Clone, Debug, clap::Args)]
pub struct RunCommand {
    /// The options, which also stand without the word `run`.
    #[command(flatten)]
    pub options: RunArgs,
    /// Files that describe a domain each, in TOML: name, kernel, ramdisk, cmdline, memory, vcpus, disks, exec
    #[arg(value_name = "FILE.toml", conflicts_with_all = ["kernel", "ramdisk", "cmdline", "memory", "vcpus", "disk", "exec"])]
    pub domains: Vec<PathBuf>,
}

impl RunCommand {
    /// The domains to run: those of the files, or the one that the options describe.
    pub fn specs(&self) -> Result<Vec<Spec>, Failure> {
        let specs = match self.domains.as_slice() {
            [] => vec![self.options.spec()],
            paths => domain_file::read_all(paths)?,
        };
        specs.iter().try_for_each(Spec::check)?;
        Ok(specs)
    }
}

/// The options of `run`: those of one domain, and those of the whole run.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// A kernel with Xen notes, in place of the bundled guest kernel: an ELF image, also compressed, or a bzImage (vmlinuz)
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// A file that the kernel finds as its ramdisk
    #[arg(long, value_name = "FILE")]
    pub ramdisk: Option<PathBuf>,
    /// The kernel's command line
    #[arg(long, value_name = "STR", default_value = "", allow_hyphen_values = true)]
    pub cmdline: String,
    /// The guest's memory: 256M, 1G
    #[arg(long, value_name = "SIZE", default_value = DEFAULT_MEMORY, value_parser = size::parse)]
    pub memory: Amount,
    /// Memory of the whole machine, the hypervisor's own included [default: what the guest needs]
    #[arg(long, value_name = "SIZE", value_parser = size::parse_machine)]
    pub machine_memory: Option<Amount>,
    /// Physical CPUs of the machine
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = |text: &str| count(text, 1, 64))]
    pub pcpus: u32,
    /// The guest's vCPUs; there may be more of them than physical CPUs
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = |text: &str| count(text, 1, MAX_VCPUS))]
    pub vcpus: u32,
    /// A disk for the guest: an image, raw or qcow2. With ro it is only read, with direct past the host's cache; bps and
    /// iops limit bytes and requests a second. A comma of the path is written twice. May be repeated
    #[arg(long, value_name = "PATH[,ro][,direct][,format=F][,bps=N][,iops=N]", value_parser = disk::parser())]
    pub disk: Vec<DiskSpec>,
    /// Tell at the end how often each hypercall was made, and what the exits were
    #[arg(long)]
    pub statistics: bool,
    /// Tell a domain's end, and its statistics where they are asked for, as JSON: a line for each domain, on stderr
    #[arg(long)]
    pub json: bool,
    /// Tell only what goes wrong, and what was asked for
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Log what the hypervisor does, on stderr; twice for more. PARAVANE_LOG says it in detail
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Seconds that guests have to shut down when INT or TERM asks them to, before they are ended
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub grace: u32,
    /// Record every exit, hypercall and event with its duration, for Perfetto
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Let --trace replace a file that is no trace
    #[arg(long, requires = "trace")]
    pub force: bool,
    /// Commands for the bundled kernel's shell, instead of what is typed; the first that fails is the last
    #[arg(long, value_name = "CMD; CMD", allow_hyphen_values = true)]
    pub exec: Option<String>,
}

impl RunArgs {
    /// The domain that they describe.
    fn spec(&self) -> Spec {
        Spec {
            origin: Origin::Options,
            name: "guest".into(),
            kernel: self.kernel.clone(),
            ramdisk: self.ramdisk.clone(),
            cmdline: self.cmdline.clone(),
            memory: self.memory,
            vcpus: self.vcpus,
            disks: self.disk.clone(),
            exec: self.exec.clone(),
        }
    }
}

/// What is said to `paravane check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// As JSON, for programs
    #[arg(long)]
    pub json: bool,
    /// Also what `cpuid` tells guests: what the processor has, what they get, what is hidden and why
    #[arg(long)]
    pub cpuid: bool,
}

/// What is said to `paravane kernel`.
#[derive(Debug, clap::Args)]
pub struct KernelArgs {
    /// Where to write it; - is stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Replace a file that is something else
    #[arg(long)]
    pub force: bool,
}

/// What is said to `paravane man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// The directory for the pages, such as /usr/local/share/man/man1; - is stdout
    #[arg(short, long, value_name = "DIR", default_value = "-")]
    pub output: PathBuf,
    /// Replace files that are something else
    #[arg(long)]
    pub force: bool,
}

/// What is said to `paravane completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// What is said to `paravane bench`.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// What to measure: core, block [default: core]
    #[arg(value_name = "SUITE")]
    pub suites: Vec<String>,
    /// As JSON, for programs
    #[arg(long)]
    pub json: bool,
    /// Pairs of measurements that make a row
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = |text: &str| count(text, 30, 1_000_000))]
    pub pairs: u32,
    /// A kernel of Linux, for the row core/boot/linux
    #[arg(long, value_name = "VMLINUZ")]
    pub linux: Option<PathBuf>,
}

/// What is said to `paravane xs`.
#[derive(Debug, clap::Args)]
pub struct XsArgs {
    /// The socket of the one that is meant [default: that of the only one running]
    #[arg(long, value_name = "PATH", global = true)]
    pub socket: Option<PathBuf>,
    /// What is to be done with the store.
    #[command(subcommand)]
    pub command: XsCommand,
}

/// What can be done with the store.
#[derive(Debug, Subcommand)]
pub enum XsCommand {
    /// The names of a node's children, with their values
    Ls {
        /// And what is below them
        #[arg(short, long)]
        recursive: bool,
        /// The node, such as /local/domain/1
        path: String,
    },
    /// A node's value
    Read {
        /// The node
        path: String,
    },
    /// Set a node's value, and make it where it is not there: /local/domain/1/control/shutdown poweroff, say
    Write {
        /// The node
        path: String,
        /// The value
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
    /// Remove a node and all below it
    Rm {
        /// The node
        path: String,
    },
    /// Tell whenever a node or one below it changes, and what it is then, until the run ends
    Watch {
        /// The node
        path: String,
    },
}

/// Reads how many there are to be.
fn count(text: &str, least: u32, most: u32) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("a whole number from {least} to {most} is needed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn run(words: &[&str]) -> RunArgs {
        match Args::try_parse_from(words).unwrap().into_command() {
            Command::Run(command) => command.options,
            other => panic!("not run: {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn run_is_the_default() {
        assert_eq!(run(&["paravane"]).memory, Amount(32768));
        assert_eq!(run(&["paravane", "--memory", "1G"]).memory, Amount(262_144));
        assert_eq!(
            run(&["paravane", "run", "--exec", "selftest; poweroff"]).exec.unwrap(),
            "selftest; poweroff"
        );
    }

    #[test]
    fn a_value_may_begin_with_a_dash() {
        assert_eq!(run(&["paravane", "--cmdline", "--x", "--vcpus", "2"]).cmdline, "--x");
        assert_eq!(run(&["paravane", "run", "--exec", "-v"]).exec.unwrap(), "-v");
        let words = ["paravane", "xs", "write", "/a", "-5"];
        match Args::try_parse_from(words).unwrap().into_command() {
            Command::Xs(XsArgs { command: XsCommand::Write { path, value }, .. }) => {
                assert_eq!((path.as_str(), value.as_str()), ("/a", "-5"));
            }
            other => panic!("{other:?}"),
        }
    }
}
