//! What to do where `/dev/kvm` may not be opened: that depends on its owner, its group and its mode.

use rustix::process::{Gid, Uid, getegid, geteuid, getgroups};
use std::os::unix::fs::MetadataExt;

/// Who may open the device, and who wants to.
#[derive(Clone, Debug)]
struct Access {
    owner: u32,
    group: u32,
    /// The group's name, where `/etc/group` has it.
    group_name: Option<String>,
    mode: u32,
    user: u32,
    groups: Vec<u32>,
}

/// What to do, for a person.
pub fn remedy() -> String {
    match std::fs::metadata("/dev/kvm") {
        Err(error) => format!("it cannot even be looked at ({error})"),
        Ok(data) => {
            let groups = getgroups().unwrap_or_default().into_iter().chain([getegid()]).map(Gid::as_raw);
            let table = std::fs::read_to_string("/etc/group").unwrap_or_default();
            advise(&Access {
                owner: data.uid(),
                group: data.gid(),
                group_name: group_name(&table, data.gid()),
                mode: data.mode() & 0o777,
                user: Uid::as_raw(geteuid()),
                groups: groups.collect(),
            })
        }
    }
}

/// The name of a group in the text of `/etc/group`.
fn group_name(table: &str, group: u32) -> Option<String> {
    let named = table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(group)).then_some(name)
    });
    named.map(str::to_owned)
}

fn advise(access: &Access) -> String {
    const READ_AND_WRITE: u32 = 6;
    let allows =
        |shift: u32| access.mode.checked_shr(shift).unwrap_or_default() & READ_AND_WRITE == READ_AND_WRITE;
    let name = access.group_name.clone().unwrap_or_else(|| access.group.to_string());
    let is_member = access.groups.contains(&access.group);
    let is_owner = access.user == access.owner;
    let its =
        format!("its owner is {}, its group {name}, its mode {:04o}", user_name(access.owner), access.mode);
    let allowed = match (is_owner, is_member) {
        (true, _) => allows(6),
        (_, true) => allows(3),
        _ => allows(0),
    };
    let remedy = if allowed || access.user == 0 {
        "which allows it, so something else forbids it: the device rules of a container, or a security module"
            .into()
    } else if is_owner {
        "so give yourself the right (chmod u+rw /dev/kvm)".into()
    } else if is_member {
        "so its group, which you are in, needs the right (chmod g+rw /dev/kvm, as root)".into()
    } else if allows(3) && access.group != 0 {
        format!("so join that group (usermod -aG {name} $USER, as root, then log in again)")
    } else {
        "so run as root, or have root give it to a group of yours (chgrp kvm /dev/kvm; chmod g+rw /dev/kvm)"
            .into()
    };
    format!("{its}, {remedy}")
}

fn user_name(user: u32) -> String {
    if user == 0 { "root".into() } else { format!("user {user}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_fits_owner_group_and_mode() {
        let access = |mode, owner, group, user, groups: &[u32]| Access {
            owner,
            group,
            group_name: group_name("root:x:0:\nkvm:x:104:somebody\n", group),
            mode,
            user,
            groups: groups.to_vec(),
        };
        for (access, words) in [
            (
                access(0o660, 0, 104, 1000, &[1000]),
                &["root, its group kvm, its mode 0660", "usermod -aG kvm $USER"][..],
            ),
            (access(0o660, 0, 993, 1000, &[1000]), &["its group 993", "usermod -aG 993 $USER"]),
            (
                access(0o600, 0, 0, 1000, &[1000]),
                &["its group root, its mode 0600", "run as root", "chgrp kvm"],
            ),
            (access(0o660, 0, 0, 1000, &[1000]), &["run as root"]),
            (access(0o600, 0, 104, 1000, &[1000, 104]), &["which you are in", "chmod g+rw"]),
            (access(0o400, 1000, 104, 1000, &[1000]), &["user 1000", "chmod u+rw"]),
            (access(0o666, 0, 104, 1000, &[1000]), &["which allows it", "container"]),
            (access(0o660, 0, 104, 1000, &[104]), &["which allows it"]),
            (access(0o600, 0, 0, 0, &[0]), &["which allows it"]),
        ] {
            let advice = advise(&access);
            assert!(words.iter().all(|word| advice.contains(word)), "{advice}: {words:?}");
        }
    }
}
