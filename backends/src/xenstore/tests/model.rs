//! The store against a model that is too simple to be wrong: one map of paths, looked through from end to end.
//!
//! Random requests of several clients, in and out of transactions, with domains that come and go. Outside transactions
//! each answer, all nodes and all events must be the model's. A transaction is only noted down. If the store commits
//! it, then doing its requests now, one after the other, must give the very answers that it got: it was as if it had
//! happened at once. If the store refuses, somebody must have changed something since it started.

use super::*;
use crate::xenstore::permissions::Need;
use pv_abi::Errno;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
enum Request {
    Read,
    Directory,
    GetPermissions,
    Write(u8),
    Mkdir,
    Remove,
    SetPermissions(Permissions),
}

type Answer = Result<String, Errno>;
type Changes = BTreeMap<String, (bool, Option<Permissions>)>;

#[derive(Clone, Default)]
struct Model {
    nodes: BTreeMap<String, (Vec<u8>, Permissions)>,
}

fn parent(path: &str) -> Option<&str> {
    let cut = path.rfind('/').filter(|_| path != "/")?;
    Some(if cut == 0 { "/" } else { &path[..cut] })
}

/// `path` is `of` or below it.
fn is_within(path: &str, of: &str) -> bool {
    path == of || of == "/" && path.starts_with('/') || path.starts_with(&format!("{of}/"))
}

impl Model {
    fn look_up(&self, caller: Caller, path: &str, need: Need) -> Result<(), Errno> {
        let (mut at, mut error) = (path, Errno::EACCES);
        while !self.nodes.contains_key(at) {
            (at, error) = (parent(at).ok_or(Errno::ENOENT)?, Errno::ENOENT);
        }
        let allowed = self.nodes[at].1.allow(caller, need);
        match (at == path, allowed) {
            (true, true) => Ok(()),
            (false, true) => Err(error),
            (_, false) => Err(Errno::EACCES),
        }
    }

    fn note(&self, changes: &mut Changes, path: &str, exact: bool) {
        let before = self.nodes.get(path).map(|(_, permissions)| permissions.clone());
        changes.entry(path.to_owned()).or_insert((exact, before)).0 &= exact;
    }

    fn create(&mut self, caller: Caller, path: &str) {
        let above = parent(path).unwrap();
        if !self.nodes.contains_key(above) {
            self.create(caller, above);
        }
        let mut permissions = self.nodes[above].1.clone();
        if let Caller::Domain(domain) = caller {
            permissions.owner = domain;
        }
        self.nodes.insert(path.to_owned(), (Vec::new(), permissions));
    }

    fn perform(&mut self, caller: Caller, path: &str, request: &Request, changes: &mut Changes) -> Answer {
        let need = match request {
            Request::Read | Request::Directory | Request::GetPermissions => Need::Read,
            Request::Write(_) | Request::Mkdir | Request::Remove => Need::Write,
            Request::SetPermissions(_) => Need::Own,
        };
        let found = self.look_up(caller, path, need);
        if found.is_err_and(|error| error != Errno::ENOENT) {
            return found.map(|()| String::new());
        }
        match request {
            Request::Read => found.map(|()| format!("{:?}", self.nodes[path].0)),
            Request::GetPermissions => found.map(|()| format!("{:?}", self.nodes[path].1)),
            Request::Directory => found.map(|()| {
                let children = self.nodes.keys().filter(|node| parent(node) == Some(path));
                format!("{:?}", children.map(|child| child.rsplit('/').next().unwrap()).collect::<Vec<_>>())
            }),
            Request::Write(value) => {
                self.note(changes, path, false);
                if found.is_err() {
                    self.create(caller, path);
                }
                self.nodes.get_mut(path).unwrap().0 = vec![*value];
                Ok(String::new())
            }
            Request::Mkdir => {
                if found.is_err() {
                    self.note(changes, path, false);
                    self.create(caller, path);
                }
                Ok(String::new())
            }
            Request::Remove if path == "/" => Err(Errno::EINVAL),
            Request::Remove if found.is_err() => match self.nodes.contains_key(parent(path).unwrap()) {
                true => Ok(String::new()),
                false => Err(Errno::ENOENT),
            },
            Request::Remove => {
                let gone: Vec<_> = self.nodes.keys().filter(|node| is_within(node, path)).cloned().collect();
                for node in gone {
                    self.note(changes, &node, node != path);
                    self.nodes.remove(&node);
                }
                Ok(String::new())
            }
            Request::SetPermissions(permissions) => {
                found?;
                if caller != Caller::Privileged && permissions.owner != self.nodes[path].1.owner {
                    return Err(Errno::EPERM);
                }
                self.note(changes, path, false);
                self.nodes.get_mut(path).unwrap().1 = permissions.clone();
                Ok(String::new())
            }
        }
    }

    fn release(&mut self, domain: DomId) -> Changes {
        let mut changes = Changes::new();
        let owned = self.nodes.iter().filter(|(_, (_, permissions))| permissions.owner == domain);
        for path in owned.map(|(path, _)| path.clone()).collect::<Vec<_>>() {
            if path == "/" {
                self.nodes.get_mut("/").unwrap().1 = Permissions::private(DomId::HOST);
            } else if self.nodes.contains_key(&path) {
                self.perform(Caller::Privileged, &path, &Request::Remove, &mut changes).unwrap();
            }
        }
        for (_, permissions) in self.nodes.values_mut() {
            permissions.entries.retain(|(named, _)| *named != domain);
        }
        changes
    }

    /// Whether a watcher may know of a change.
    fn may_know(&self, caller: Caller, path: &str, before: &Option<Permissions>) -> bool {
        let now = [Some(path), parent(path)].map(|path| path.and_then(|path| self.nodes.get(path)));
        let now = now.iter().flatten().map(|(_, permissions)| permissions);
        caller == Caller::Privileged
            || before.iter().chain(now).any(|permissions| permissions.allow(caller, Need::Read))
    }
}

struct OpenTransaction {
    number: u32,
    done: Vec<(String, Request, Answer)>,
    /// How often something had changed when it started.
    since: u64,
}

struct Client {
    id: ConnectionId,
    caller: Caller,
    transaction: Option<OpenTransaction>,
    watches: Vec<String>,
}

struct Run {
    store: Store,
    model: Model,
    clients: Vec<Client>,
    changed: u64,
    committed: usize,
    refused: usize,
}

const PATHS: [&str; 12] =
    ["/", "/a", "/a/b", "/a/b/c", "/a/bb", "/b", "/b/a", "/c/a/b", "/c", "/c/a", "/a/b/c/d", "/b/a/c"];
const DOMAINS: [u16; 2] = [1, 2];

impl Run {
    fn new() -> Self {
        let mut store = Store::default();
        let mut clients = Vec::new();
        let mut model = Model::default();
        model.nodes.insert("/".into(), (Vec::new(), Permissions::private(DomId::HOST)));
        for caller in [Caller::Privileged, Caller::Domain(ONE), Caller::Domain(TWO)] {
            if let Caller::Domain(domain) = caller {
                store.introduce(domain).unwrap();
            }
            let id = store.connect(caller).unwrap();
            clients.push(Client { id, caller, transaction: None, watches: Vec::new() });
        }
        Self { store, model, clients, changed: 0, committed: 0, refused: 0 }
    }

    fn ask(&mut self, who: usize, path: &str, request: &Request) -> Answer {
        let client = &self.clients[who];
        let number = client.transaction.as_ref().map_or(0, |transaction| transaction.number);
        self.store.within(client.id, number, |it| match request {
            Request::Read => it.read(path).map(|value| format!("{value:?}")),
            Request::Directory => it.directory(path).map(|children| format!("{:?}", children.names)),
            Request::GetPermissions => it.permissions(path).map(|permissions| format!("{permissions:?}")),
            Request::Write(value) => it.write(path, [*value]).map(|()| String::new()),
            Request::Mkdir => it.mkdir(path).map(|()| String::new()),
            Request::Remove => it.remove(path).map(|()| String::new()),
            Request::SetPermissions(permissions) => {
                it.set_permissions(path, permissions.clone()).map(|()| String::new())
            }
        })
    }

    fn step(&mut self, random: &mut Random) {
        let who = random.below(self.clients.len());
        match random.below(40) {
            0..=1 if self.clients[who].transaction.is_none() => {
                let number = self.store.start_transaction(self.clients[who].id).unwrap();
                let since = self.changed;
                self.clients[who].transaction = Some(OpenTransaction { number, done: Vec::new(), since });
            }
            2..=5 if self.clients[who].transaction.is_some() => self.end(who, random.below(4) != 0),
            6 => self.come_and_go(who),
            7..=8 => self.watch(who, random.pick(&PATHS)),
            _ => self.request(who, random),
        }
        self.check_nodes();
    }

    fn request(&mut self, who: usize, random: &mut Random) {
        let (path, request) = (random.pick(&PATHS), request(random));
        let answer = self.ask(who, path, &request);
        let client = &mut self.clients[who];
        if let Some(transaction) = &mut client.transaction {
            transaction.done.push((path.to_owned(), request, answer));
            return;
        }
        let mut changes = Changes::new();
        assert_eq!(
            self.model.perform(client.caller, path, &request, &mut changes),
            answer,
            "{path} {request:?}"
        );
        self.check_events(&changes);
    }

    fn end(&mut self, who: usize, commit: bool) {
        let client = &mut self.clients[who];
        let transaction = client.transaction.take().unwrap();
        let ended = self.store.end_transaction(client.id, transaction.number, commit);
        let mut changes = Changes::new();
        match (ended, commit) {
            (Ok(()), false) => {}
            (Ok(()), true) => {
                for (path, request, answer) in transaction.done {
                    let now = self.model.perform(client.caller, &path, &request, &mut changes);
                    assert_eq!(now, answer, "{path} {request:?} in a transaction");
                }
                self.committed += 1;
            }
            (Err(error), _) => {
                assert!(commit && error == Errno::EAGAIN);
                assert_ne!(transaction.since, self.changed, "nobody was in the way");
                self.refused += 1;
            }
        }
        self.check_events(&changes);
    }

    /// A domain is released, and another gets its number.
    fn come_and_go(&mut self, who: usize) {
        let Caller::Domain(domain) = self.clients[who].caller else { return };
        self.store.release(domain);
        self.clients[who].watches.clear();
        self.clients[who].transaction = None;
        let changes = self.model.release(domain);
        self.changed += 1;
        self.check_events(&changes);
        self.store.introduce(domain).unwrap();
        self.clients[who].id = self.store.connect(Caller::Domain(domain)).unwrap();
    }

    fn watch(&mut self, who: usize, path: &str) {
        let client = &mut self.clients[who];
        let known = client.watches.iter().position(|watched| watched == path);
        let (id, path) = (client.id, path.to_owned());
        match known {
            Some(index) => {
                self.store.unwatch(id, path.as_bytes(), path.as_bytes()).unwrap();
                client.watches.remove(index);
            }
            None => {
                self.store.watch(id, path.as_bytes(), path.as_bytes()).unwrap();
                assert_eq!(self.store.next_event(id).unwrap().path, path.as_str().into());
                client.watches.push(path);
            }
        }
    }

    fn check_events(&mut self, changes: &Changes) {
        self.changed += u64::from(!changes.is_empty());
        self.store.tell_all();
        for client in &self.clients {
            let mut expected = BTreeSet::new();
            for (path, (exact, before)) in changes {
                let matching = |watched: &&String| match exact {
                    true => path == *watched,
                    false => is_within(path, watched),
                };
                if self.model.may_know(client.caller, path, before) {
                    let matching = client.watches.iter().filter(matching);
                    expected.extend(matching.map(|watched| (path.clone(), watched.clone())));
                }
            }
            let told = std::iter::from_fn(|| self.store.next_event(client.id));
            let told: Vec<_> = told
                .map(|event| (event.path.to_string(), String::from_utf8(event.token.to_vec()).unwrap()))
                .collect();
            assert_eq!(told.len(), expected.len(), "{told:?} {expected:?}");
            assert_eq!(told.into_iter().collect::<BTreeSet<_>>(), expected);
        }
    }

    fn check_nodes(&self) {
        self.store.tree.audit();
        let mut found = self.store.tree.dump();
        found.retain(|(path, _, _)| path.starts_with('/'));
        let nodes = self.model.nodes.iter();
        let expected: Vec<_> = nodes
            .map(|(path, (value, permissions))| (path.clone(), value.clone(), permissions.clone()))
            .collect();
        assert_eq!(found, expected);
    }
}

fn request(random: &mut Random) -> Request {
    let access = [Access::NONE, Access::READ, Access::WRITE, Access::BOTH];
    match random.below(12) {
        0..=1 => Request::Read,
        2..=3 => Request::Directory,
        4 => Request::GetPermissions,
        5..=7 => Request::Write(random.below(3) as u8),
        8 => Request::Mkdir,
        9 => Request::Remove,
        _ => {
            let mut domain = || DomId(random.pick(&[0, DOMAINS[0], DOMAINS[1]]));
            let (owner, named) = (domain(), domain());
            let mut permissions = Permissions::private(owner);
            permissions.others = random.pick(&access);
            if random.below(2) == 0 {
                permissions = permissions.and(named, random.pick(&access));
            }
            Request::SetPermissions(permissions)
        }
    }
}

#[test]
fn the_store_does_what_a_simple_model_does() {
    let (mut committed, mut refused) = (0, 0);
    for seed in 1..=300u64 {
        let mut run = Run::new();
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let steps = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            (0..400).for_each(|_| run.step(&mut random));
        }));
        assert!(steps.is_ok(), "with seed {seed}");
        committed += run.committed;
        refused += run.refused;
    }
    assert!(committed > 500 && refused > 500, "{committed} transactions committed, {refused} refused");
}
