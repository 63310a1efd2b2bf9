//! The layers of `ARCHITECTURE.md` are those of the sources: imports point down, only `machine/kvm` names KVM's crates, only
//! who starts back-ends knows them, and only paging makes roots.

use proc_macro2::{TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use syn::visit::{self, Visit};
use syn::{Attribute, Meta, UseTree};

/// Crates that only `machine/kvm` may name.
const OF_KVM: [&str; 2] = ["kvm_bindings", "kvm_ioctls"];
/// Who may name the back-ends: those who start them. The others know the interface between both.
const STARTERS_OF_BACK_ENDS: [&str; 4] = ["host_domain", "bench", "cli", "main"];
/// Who may say that a table is a root: paging, and the probes, which run before there is a guest.
const MAKERS_OF_ROOTS: [&str; 3] = ["machine/root.rs", "paging/roots.rs", "machine/kvm/probe.rs"];
/// Only tests and fuzzing build these: they may use everything.
const MACHINERY: [&str; 2] = ["testing", "fuzzing"];

/// Sources by their path below `hypervisor/src`.
type Sources = BTreeMap<String, String>;
/// A path in a source, or what a `use` names: its segments.
type Named = Vec<String>;

fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(name: &str) -> String {
    fs::read_to_string(tree().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The layers of `document`, the highest first: modules of the hypervisor.
fn layers(document: &str) -> Vec<Vec<String>> {
    let section = document.split("\n## Layers\n").nth(1).unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let module = |name: &str| {
        let name = name.trim_matches(|c| c == '`' || c == ' ');
        name.trim_start_matches("hypervisor/src/").trim_end_matches('/').trim_end_matches(".rs").to_owned()
    };
    rows.map(|row| row.split(',').map(module).collect()).collect()
}

/// The sources of the hypervisor, without those that only tests have.
fn sources() -> Sources {
    let root = tree().join("hypervisor/src");
    let (mut found, mut folders) = (Sources::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the tree") {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(&root).expect("below it").to_string_lossy().into_owned();
            let is_for_tests = name.split('/').any(|part| part == "tests")
                || name.trim_end_matches(".rs").ends_with("tests");
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".rs") && !is_for_tests && !MACHINERY.contains(&top(&name)) {
                found.insert(name, fs::read_to_string(&path).expect("a source"));
            }
        }
    }
    found
}

/// The module at the top of the crate that the file at `name` is of.
fn top(name: &str) -> &str {
    name.split('/').next().unwrap_or_default().trim_end_matches(".rs")
}

/// What a source names, each with the module that it is named in. Items for tests only are left out.
struct Names {
    /// The module that is looked at, from the top of the crate on.
    module: Vec<String>,
    found: Vec<(Vec<String>, Named)>,
}

impl Names {
    fn of(name: &str, source: &str) -> Self {
        let file = syn::parse_file(source).unwrap_or_else(|error| panic!("{name}: {error}"));
        let module = name.trim_end_matches(".rs").trim_end_matches("/mod").split('/').map(str::to_owned);
        let mut names = Self { module: module.collect(), found: Vec::new() };
        names.visit_file(&file);
        names
    }

    fn add(&mut self, named: Named) {
        self.found.push((self.module.clone(), named));
    }

    fn add_use(&mut self, tree: &UseTree, mut before: Named) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.add_use(&path.tree, before);
            }
            UseTree::Name(name) => self.add([before, vec![name.ident.to_string()]].concat()),
            UseTree::Rename(name) => {
                let is_whole = ["crate", "hypervisor", "super"].iter().any(|root| name.ident == root);
                before.push(name.ident.to_string());
                before.extend(is_whole.then(|| "*".into()));
                self.add(before);
            }
            UseTree::Glob(_) => self.add([before, vec!["*".into()]].concat()),
            UseTree::Group(group) => {
                group.items.iter().for_each(|item| self.add_use(item, before.clone()));
            }
        }
    }

    /// Paths in what a macro is told, whatever its grammar.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let (mut path, mut colons) = (Named::new(), 0);
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 && !path.is_empty() {
                        self.add(std::mem::take(&mut path));
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                other => {
                    if !path.is_empty() {
                        self.add(std::mem::take(&mut path));
                    }
                    if let TokenTree::Group(group) = other {
                        self.add_tokens(group.stream());
                    }
                    colons = 0;
                }
            }
        }
        if !path.is_empty() {
            self.add(path);
        }
    }

    /// What is named, from the top of the crate on; none where it is of another crate, or of the same module.
    fn in_crate(module: &[String], named: &Named) -> Option<String> {
        match named.first()?.as_str() {
            "crate" | "hypervisor" => named.get(1).cloned(),
            "super" => {
                let up = named.iter().take_while(|segment| *segment == "super").count();
                if up == module.len() { named.get(up).cloned() } else { None }
            }
            _ => None,
        }
    }
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    let is_test = |meta: &Meta| meta.path().is_ident("test") || meta.path().is_ident("fuzzing");
    attributes.iter().filter(|attribute| attribute.path().is_ident("cfg")).any(|attribute| {
        match attribute.parse_args::<Meta>() {
            Ok(Meta::List(any)) if any.path.is_ident("any") => any
                .parse_args_with(syn::punctuated::Punctuated::<Meta, syn::Token![,]>::parse_terminated)
                .is_ok_and(|all| all.iter().all(is_test)),
            Ok(meta) => is_test(&meta),
            Err(_) => false,
        }
    })
}

/// Leaves out a kind of node where it is for tests only.
macro_rules! leaves_out_tests {
    ($($visit:ident($node:ty, $($attributes:tt)*);)*) => {$(
        fn $visit(&mut self, node: &'ast $node) {
            if !is_for_tests(&node$($attributes)*) {
                visit::$visit(self, node);
            }
        }
    )*};
}

impl<'ast> Visit<'ast> for Names {
    leaves_out_tests! {
        visit_item_fn(syn::ItemFn, .attrs);
        visit_item_impl(syn::ItemImpl, .attrs);
        visit_item_const(syn::ItemConst, .attrs);
        visit_item_static(syn::ItemStatic, .attrs);
        visit_item_struct(syn::ItemStruct, .attrs);
        visit_item_enum(syn::ItemEnum, .attrs);
        visit_item_trait(syn::ItemTrait, .attrs);
        visit_impl_item_fn(syn::ImplItemFn, .attrs);
        visit_trait_item_fn(syn::TraitItemFn, .attrs);
        visit_expr_call(syn::ExprCall, .attrs);
        visit_expr_block(syn::ExprBlock, .attrs);
        visit_local(syn::Local, .attrs);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_for_tests(&item.attrs) {
            self.module.push(item.ident.to_string());
            visit::visit_item_mod(self, item);
            self.module.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_for_tests(&item.attrs) {
            self.add_use(&item.tree, Named::new());
        }
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        self.add(if item.ident == "self" {
            vec!["crate".into(), "*".into()]
        } else {
            vec![item.ident.to_string()]
        });
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        self.visit_path(&called.path);
        self.add_tokens(called.tokens.clone());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.add(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    // `pub(in crate::module)` uses nothing.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}
}

/// What of `sources` is not as `layers` has it.
fn complaints(layers: &[Vec<String>], sources: &Sources) -> Vec<String> {
    let modules: BTreeSet<_> = sources.keys().map(|name| top(name)).collect();
    let level = |module: &str| layers.iter().position(|layer| layer.iter().any(|name| name == module));
    let absent = layers.iter().flatten().filter(|name| !modules.contains(name.as_str()));
    let mut found: Vec<_> = absent.map(|name| format!("{name} has a row and is not there")).collect();
    let mut uses: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (name, source) in sources {
        let names = Names::of(name, source);
        let of_kvm = |named: &Named| named.first().is_some_and(|first| OF_KVM.contains(&first.as_str()));
        if !name.starts_with("machine/kvm/") && names.found.iter().any(|(_, named)| of_kvm(named)) {
            found.push(format!("{name} names a crate of KVM's"));
        }
        let of_back_ends = |named: &Named| named.first().is_some_and(|first| first == "backends");
        if !STARTERS_OF_BACK_ENDS.contains(&top(name))
            && names.found.iter().any(|(_, named)| of_back_ends(named))
        {
            found.push(format!("{name} names a back-end"));
        }
        let makes_root = |named: &Named| named.last().is_some_and(|last| last == "of_valid_l4");
        if !MAKERS_OF_ROOTS.contains(&name.as_str()) && names.found.iter().any(|(_, named)| makes_root(named))
        {
            found.push(format!("{name} makes a root"));
        }
        let module = top(name);
        if module == "lib" {
            continue; // it only says which modules there are
        }
        let Some(own) = level(module) else {
            found.push(format!("{name}: {module} has no row"));
            continue;
        };
        let used: BTreeSet<_> =
            names.found.iter().filter_map(|(at, named)| Names::in_crate(at, named)).collect();
        for other in used.into_iter().filter(|other| other != module) {
            match level(&other) {
                Some(below) if below >= own => _ = uses.entry(module).or_default().insert(other),
                Some(_) => found.push(format!("{name} points up, to {other}")),
                None if other == "*" => found.push(format!("{name} has all of the crate under another name")),
                None if MACHINERY.contains(&other.as_str()) => {
                    found.push(format!("{name} uses {other}, which only tests have"));
                }
                None => {}
            }
        }
    }
    found.extend(circles(uses).into_iter().map(|module| format!("{module} is in a circle")));
    found
}

/// Modules that lead back to themselves: what is left when those that use nothing are taken away again and again.
fn circles(mut uses: BTreeMap<&str, BTreeSet<String>>) -> Vec<&str> {
    loop {
        let users: BTreeSet<String> = uses.keys().map(|&module| module.to_owned()).collect();
        let before = uses.len();
        uses.retain(|_, used| used.iter().any(|other| users.contains(other)));
        if uses.len() == before {
            return uses.into_keys().collect();
        }
    }
}

#[test]
fn layers_point_down() {
    let (layers, sources) = (layers(&text("ARCHITECTURE.md")), sources());
    assert!(layers.len() > 10 && sources.len() > 200, "{} {}", layers.len(), sources.len());
    let complaints = complaints(&layers, &sources);
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Our library crates depend on no crates of ours but those that are listed here, and on none of KVM's.
#[test]
fn crates_know_whom_they_say() {
    for (name, known) in [
        ("pv-abi/Cargo.toml", &[][..]),
        ("backends/interface/Cargo.toml", &["pv-abi"]),
        ("backends/Cargo.toml", &["backend-interface", "pv-abi"]),
        ("pv-guest-kernel/Cargo.toml", &["pv-abi"]),
    ] {
        let manifest: toml::Table = text(name).parse().expect("a manifest");
        let mut dependencies: Vec<_> =
            manifest["dependencies"].as_table().expect("a table").keys().cloned().collect();
        dependencies.retain(|name| {
            [
                "pv-abi",
                "backend-interface",
                "backends",
                "pv-guest-kernel",
                "paravane",
                "kvm-bindings",
                "kvm-ioctls",
            ]
            .contains(&name.as_str())
        });
        assert_eq!(dependencies, known, "{name}");
    }
}

/// What is wrong with a tree of five modules, where `file` is `source`.
fn seen(file: &str, source: &str) -> Vec<String> {
    let rows = [&["cli", "main"][..], &["paging"], &["frame", "error"], &["machine"]];
    let layers = rows.map(|row| row.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    let files = ["cli/mod.rs", "main.rs", "paging/mod.rs", "frame/mod.rs", "error.rs", "machine/mod.rs"];
    let mut sources: Sources = files.map(|name| (name.to_owned(), String::new())).into();
    sources.insert("error.rs".into(), "use crate::machine::Memory;".into());
    sources.insert(file.into(), source.into());
    complaints(&layers, &sources)
}

#[test]
fn what_points_up_is_seen_however_it_is_written() {
    for up in [
        "use crate::paging::Mmu;",
        "use crate::{machine, paging::Mmu};",
        "use super::super::paging;",
        "mod inner { use super::super::super::paging::Mmu; }",
        "fn f() { crate::paging::g() }",
        "fn f() { println!(\"{}\", crate::paging::N) }",
        "fn f() { tracing::debug!(%x, y = crate::paging::N, \"z\") }",
        "fn f() { vec![crate::paging::N; 7]; }",
        "fn f() { crate::paging::check!() }",
        "macro_rules! m { () => { $crate::paging::f() } }",
        "type T = Option<crate::paging::Mmu>;",
        "impl S { fn f() { for x in crate::paging::all() {} } }",
        "impl crate::paging::Table for S {}",
        "#[cfg(not(test))] use crate::paging::Mmu;",
    ] {
        assert_eq!(seen("frame/table.rs", up), ["frame/table.rs points up, to paging"], "{up}");
    }
    for whole in ["use crate::*;", "use crate as c;", "extern crate self as c;", "use super::super::*;"] {
        let complaint = "frame/table.rs has all of the crate under another name";
        assert_eq!(seen("frame/table.rs", whole), [complaint], "{whole}");
    }
    assert_eq!(seen("frame/table.rs", "use crate::testing::World;").len(), 1);
}

#[test]
fn what_points_down_or_is_for_tests_is_fine() {
    for fine in [
        "use crate::{machine::Memory, frame::Word, error::Failure};",
        "use super::super::machine;",
        "mod inner { use super::paging; }", // its own
        "#[cfg(test)] mod tests { use crate::paging::Mmu; }",
        "#[cfg(any(fuzzing, test))] fn f() { crate::testing::seen() }",
        "fn f() { #[cfg(any(test, fuzzing))] crate::testing::seen(); }",
        "pub(in crate::paging) struct S;",
        "// crate::paging\nconst S: &str = \"crate::paging\";",
    ] {
        assert_eq!(seen("frame/table.rs", fine), [""; 0], "{fine}");
    }
}

#[test]
fn circles_rows_roots_back_ends_and_crates_of_kvms_are_seen() {
    assert_eq!(seen("error.rs", "use crate::frame::Word;"), [""; 0]);
    let mut both = seen("error.rs", "use crate::frame::Word;");
    both.extend(seen("frame/mod.rs", "use crate::error::Failure;"));
    assert!(both.is_empty(), "one way is no circle: {both:?}");
    let name = |module: &'static str, used: &[&str]| {
        (module, used.iter().map(|used| (*used).to_owned()).collect::<BTreeSet<_>>())
    };
    let two = [name("a", &["b", "d"]), name("b", &["a"]), name("c", &["d"])];
    assert_eq!(circles(two.into()), ["a", "b"]);
    let three = [name("a", &["b"]), name("b", &["c"]), name("c", &["a"]), name("d", &["e"])];
    assert_eq!(circles(three.into()), ["a", "b", "c"]);
    assert_eq!(seen("frame/word.rs", "use kvm_ioctls::Kvm;"), ["frame/word.rs names a crate of KVM's"]);
    assert_eq!(seen("lib.rs", "extern crate kvm_ioctls as k;"), ["lib.rs names a crate of KVM's"]);
    assert_eq!(seen("machine/kvm/vm.rs", "use kvm_ioctls::Kvm;"), [""; 0]);
    assert_eq!(seen("frame/word.rs", "use backends::bell::Bell;"), ["frame/word.rs names a back-end"]);
    assert_eq!(seen("cli/guests/disk.rs", "use backends::block::Disk;"), [""; 0]);
    for made in [
        "fn f() { Root::of_valid_l4(m) }",
        "fn f() { g(crate::machine::Root::of_valid_l4) }",
        "fn f() { g!(R::of_valid_l4(m)) }",
        "fn f() { <Root>::of_valid_l4(m) }",
    ] {
        assert_eq!(seen("paging/update.rs", made), ["paging/update.rs makes a root"], "{made}");
        assert_eq!(seen("paging/roots.rs", made), [""; 0], "{made}");
    }
    assert_eq!(seen("sched.rs", ""), ["sched.rs: sched has no row"]);
    let layers = [vec!["machine".to_owned(), "nowhere".to_owned()]];
    let sources = [("machine/mod.rs".to_owned(), String::new())].into();
    assert_eq!(complaints(&layers, &sources), ["nowhere has a row and is not there"]);
}
