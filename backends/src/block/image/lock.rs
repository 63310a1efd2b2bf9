//! Who uses an image: one that writes it, or any number of readers.
//!
//! `flock` keeps others out, in this process and in others. Who they are is told by the host's list of locks, and of
//! this process by a list of its own. Programs that do not use `flock` are not noticed.

use super::file::Identity;
use rustix::fs::{FlockOperation, flock, major, minor};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::{self, File};
use std::process;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long the end of somebody who has ended may take.
const PATIENCE: Duration = Duration::from_secs(2);
const INTERVAL: Duration = Duration::from_millis(5);

/// The users of images in this process, by the number of their locks.
#[derive(Default)]
struct Users {
    next: u64,
    users: HashMap<u64, (Identity, String)>,
}

static USERS: LazyLock<Mutex<Users>> = LazyLock::new(Mutex::default);

fn users() -> MutexGuard<'static, Users> {
    USERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right to use an image. It ends when the file that it was taken for is closed; this is only the name on it.
#[derive(Debug)]
pub struct Lock {
    number: u64,
    pub(super) identity: Identity,
}

impl Lock {
    /// Takes the lock of a file that `user` writes or replaces: nobody has it as an image meanwhile.
    ///
    /// # Errors
    /// Who has it, or why that cannot be known, as part of a sentence.
    pub fn of_output(file: &File, user: &str) -> Result<Self, String> {
        let metadata = file.metadata().map_err(|error| format!("it cannot be looked at: {error}"))?;
        Self::take(file, Identity::of(&metadata), true, user)
    }

    /// Takes it, or says who has it.
    pub(super) fn take(file: &File, identity: Identity, writable: bool, user: &str) -> Result<Self, String> {
        let operation = match writable {
            true => FlockOperation::NonBlockingLockExclusive,
            false => FlockOperation::NonBlockingLockShared,
        };
        match patiently(file, operation, identity) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let what = if writable { "it is to be written, but" } else { "it is to be read, but" };
                return Err(format!("{what} it is in use by {}", holder(identity)));
            }
            Err(error) => return Err(format!("it cannot be locked: {error}")),
        }
        let mut users = users();
        users.next = users.next.wrapping_add(1);
        let number = users.next;
        users.users.insert(number, (identity, user.to_owned()));
        Ok(Self { number, identity })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        users().users.remove(&self.number);
    }
}

/// Takes a lock, and waits for one whose holder has ended: the host's kernel closes the files of an io_uring some time
/// after its process is gone.
fn patiently(file: &File, operation: FlockOperation, identity: Identity) -> rustix::io::Result<()> {
    let start = Instant::now();
    loop {
        match flock(file, operation) {
            Err(Errno::WOULDBLOCK) if start.elapsed() < PATIENCE && !is_held_by_the_living(identity) => {
                thread::sleep(INTERVAL);
            }
            taken => return taken,
        }
    }
}

fn is_held_by_the_living(identity: Identity) -> bool {
    let here = users().users.values().any(|(used, _)| *used == identity);
    let pid = || pid_of_holder(&fs::read_to_string("/proc/locks").unwrap_or_default(), identity);
    here || pid().is_some_and(|pid| fs::exists(format!("/proc/{pid}")).unwrap_or(true))
}

fn holder(identity: Identity) -> String {
    if let Some((_, user)) = users().users.values().find(|(used, _)| *used == identity) {
        return format!("{user}, in this process");
    }
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    match pid_of_holder(&locks, identity) {
        Some(pid) if pid == process::id() => "this process".into(),
        Some(pid) => match fs::read_to_string(format!("/proc/{pid}/comm")) {
            Ok(name) => format!("process {pid} ({})", name.trim_end()),
            Err(_) => format!("process {pid}"),
        },
        None => "another process, of which the host does not tell".into(),
    }
}

/// Finds a lock of a file in `/proc/locks`. Some file systems have another device there than `stat` says: then the inode
/// must do.
fn pid_of_holder(locks: &str, identity: Identity) -> Option<u32> {
    let device = format!("{:02x}:{:02x}", major(identity.device), minor(identity.device));
    let entries = locks.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, place, ..] = words[..] else { return None };
        let (on, inode) = place.rsplit_once(':')?;
        (inode.parse() == Ok(identity.inode))
            .then_some((on == device, pid.parse().ok().filter(|&pid| pid != 0)?))
    });
    entries.max_by_key(|(same_device, _)| *same_device).map(|(_, pid)| pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    /// What has the file open keeps the lock of a process that is gone, as io_uring does for a moment.
    #[test]
    fn a_lock_that_outlives_its_holder_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        let file = File::create(&path).unwrap();
        let holder = r#"exec 9<"$0"; flock -x 9; sleep 0.2 9<&9 >/dev/null 2>&1 &"#;
        let ended = process::Command::new("sh").args(["-c", holder]).arg(&path).status().unwrap();
        assert!(ended.success());
        assert_eq!(flock(&file, FlockOperation::NonBlockingLockExclusive), Err(Errno::WOULDBLOCK));
        let metadata = file.metadata().unwrap();
        let identity = Identity { device: metadata.dev(), inode: metadata.ino() };
        assert!(Lock::take(&file, identity, true, "test").is_ok());
    }

    #[test]
    fn the_holder_is_found_among_other_locks() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 08:01:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 22 08:01:78 0 EOF\n\
                     3: FLOCK  ADVISORY  READ  33 00:1f:77 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 44 08:01:77 0 EOF\n\
                     4: -> FLOCK  ADVISORY  WRITE 55 08:01:77 0 EOF\n\
                     5: FLOCK  ADVISORY  WRITE 0 08:01:79 0 EOF\n\
                     nonsense";
        let identity = |major, minor, inode| Identity { device: rustix::fs::makedev(major, minor), inode };
        assert_eq!(pid_of_holder(locks, identity(8, 1, 77)), Some(44));
        assert_eq!(pid_of_holder(locks, identity(0, 0x1f, 77)), Some(33));
        assert_eq!(pid_of_holder(locks, identity(0, 0x40, 78)), Some(22), "by its inode");
        assert_eq!(pid_of_holder(locks, identity(8, 1, 79)), None, "the holder is out of sight");
    }
}
