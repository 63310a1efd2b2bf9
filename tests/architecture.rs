//! The layers of `ARCHITECTURE.md` are those of the sources: imports point down, and nobody above the machine names KVM.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Attribute, File, Item, Token, UseTree};

/// Crates that only `machine/kvm` may name.
const OF_KVM: [&str; 2] = ["kvm_bindings", "kvm_ioctls"];
/// Only tests and fuzzing build these: they may use everything.
const MACHINERY: [&str; 2] = ["testing", "fuzzing"];

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

/// The sources of the hypervisor by their path below `hypervisor/src`, without those of tests alone.
fn sources() -> BTreeMap<String, String> {
    let root = tree().join("hypervisor/src");
    let (mut found, mut folders) = (BTreeMap::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the tree") {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(&root).expect("below it").to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".rs") && !name.contains("tests") && name != "lib.rs" {
                found.insert(name, fs::read_to_string(&path).expect("a source"));
            }
        }
    }
    found
}

/// Paths that a source names, outside of what is for tests only.
#[derive(Default)]
struct Named(BTreeSet<Vec<String>>);

fn is_for_tests(attributes: &[Attribute]) -> bool {
    let is_test = |attribute: &Attribute| {
        let Ok(list) = attribute.meta.require_list() else { return false };
        let condition = list.tokens.to_string();
        list.path.is_ident("cfg") && (condition == "test" || condition == "any (test , fuzzing)")
    };
    attributes.iter().any(is_test)
}

impl Named {
    fn of_use(&mut self, tree: &UseTree, mut before: Vec<String>) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                return self.of_use(&path.tree, before);
            }
            UseTree::Name(name) => before.push(name.ident.to_string()),
            UseTree::Rename(name) => before.push(name.ident.to_string()),
            UseTree::Group(group) => {
                return group.items.iter().for_each(|item| self.of_use(item, before.clone()));
            }
            UseTree::Glob(_) => {}
        }
        self.0.insert(before);
    }
}

impl<'ast> Visit<'ast> for Named {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Mod(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Const(item) => &item.attrs,
            Item::Static(item) => &item.attrs,
            Item::Struct(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.of_use(&item.tree, Vec::new());
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_expr_macro(&mut self, item: &'ast syn::ExprMacro) {
        self.visit_macro(&item.mac);
    }

    fn visit_stmt(&mut self, statement: &'ast syn::Stmt) {
        let attributes = match statement {
            syn::Stmt::Expr(syn::Expr::Call(call), _) => &call.attrs,
            syn::Stmt::Expr(syn::Expr::Block(block), _) => &block.attrs,
            _ => return visit::visit_stmt(self, statement),
        };
        if !is_for_tests(attributes) {
            visit::visit_stmt(self, statement);
        }
    }

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        // What most macros are told is a list of expressions.
        if let Ok(list) = mac.parse_body_with(Punctuated::<syn::Expr, Token![,]>::parse_terminated) {
            for expression in list {
                let mut inner = Self::default();
                inner.visit_expr(&expression);
                self.0.append(&mut inner.0);
            }
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.0.insert(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }
}

/// The modules at the top of the crate that the file at `name` uses.
fn uses(name: &str, named: &Named) -> BTreeSet<String> {
    let inner = name.trim_end_matches(".rs").trim_end_matches("/mod");
    let depth = inner.split('/').count();
    let target = |path: &Vec<String>| match path.first()?.as_str() {
        "crate" | "hypervisor" => path.get(1).cloned(),
        "super" => {
            let up = path.iter().take_while(|segment| *segment == "super").count();
            (up == depth).then(|| path.get(up).cloned())?
        }
        _ => None,
    };
    named.0.iter().filter_map(target).collect()
}

/// What of `sources` is not as `layers` has it.
fn complaints(layers: &[Vec<String>], sources: &BTreeMap<String, String>) -> Vec<String> {
    let mut found = Vec::new();
    let level = |module: &str| layers.iter().position(|layer| layer.iter().any(|name| name == module));
    let modules: BTreeSet<_> = sources.keys().map(|name| top(name)).collect();
    for named in layers.iter().flatten().filter(|name| !modules.contains(name.as_str())) {
        found.push(format!("{named} has a row and is not there"));
    }
    let mut edges: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (name, source) in sources.iter().filter(|(name, _)| !MACHINERY.contains(&top(name))) {
        let file: File = syn::parse_file(source).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut named = Named::default();
        named.visit_file(&file);
        let module = top(name);
        let Some(own) = level(module) else {
            found.push(format!("{name}: {module} has no row"));
            continue;
        };
        let of_kvm = |path: &Vec<String>| path.first().is_some_and(|first| OF_KVM.contains(&first.as_str()));
        if !name.starts_with("machine/kvm/") && named.0.iter().any(of_kvm) {
            found.push(format!("{name} names a crate of KVM's"));
        }
        for used in uses(name, &named).into_iter().filter(|used| modules.contains(used.as_str())) {
            if level(&used).is_none_or(|below| below < own) {
                found.push(format!("{name} points up, to {used}"));
            }
            if used != module {
                edges.entry(module).or_default().insert(used);
            }
        }
    }
    for (module, used) in &edges {
        for other in used.iter().filter(|other| module < &other.as_str()) {
            if edges.get(other.as_str()).is_some_and(|back| back.contains(*module)) {
                found.push(format!("{module} and {other} use each other"));
            }
        }
    }
    found
}

/// The module at the top of the crate that the file at `name` is of.
fn top(name: &str) -> &str {
    name.split('/').next().unwrap_or_default().trim_end_matches(".rs")
}

#[test]
fn layers_point_down() {
    let (layers, sources) = (layers(&text("ARCHITECTURE.md")), sources());
    assert!(layers.len() > 10 && sources.len() > 200, "{} {}", layers.len(), sources.len());
    let complaints = complaints(&layers, &sources);
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// The crates: those that whoever writes a front-end depends on depend on no more than they say.
#[test]
fn crates_know_whom_they_say() {
    for (manifest, known) in [
        ("pv-abi/Cargo.toml", &[][..]),
        ("backends/Cargo.toml", &["pv-abi"]),
        ("pv-guest-kernel/Cargo.toml", &["pv-abi"]),
    ] {
        let manifest: toml::Table = text(manifest).parse().expect("a manifest");
        let dependencies = manifest["dependencies"].as_table().expect("a table");
        let ours = ["pv-abi", "backends", "pv-guest-kernel", "paravane"];
        let found: Vec<_> = dependencies.keys().filter(|name| ours.contains(&name.as_str())).collect();
        assert_eq!(found, known);
    }
}

/// Each kind of fault is seen.
#[test]
fn what_points_up_is_seen() {
    let layers: Vec<Vec<String>> = [&["cli", "main"][..], &["paging"], &["frame"], &["machine"]]
        .map(|row| row.iter().map(|name| (*name).to_owned()).collect())
        .into();
    let seen = |file: &str, source: &str| {
        let mut sources: BTreeMap<_, _> =
            ["cli/mod.rs", "main.rs", "paging/mod.rs", "frame/mod.rs", "machine/mod.rs"]
                .map(|name| (name.to_owned(), String::new()))
                .into();
        sources.insert("frame/table.rs".into(), "use crate::machine::Memory;".into());
        sources.insert(file.into(), source.into());
        complaints(&layers, &sources)
    };
    assert!(seen("frame/table.rs", "use crate::{machine::Memory, frame::Word};").is_empty());
    for up in [
        "use crate::paging::Mmu;",
        "use crate::{machine, paging::Mmu};",
        "use super::super::paging;",
        "fn f() { crate::paging::g() }",
        "fn f() { println!(\"{}\", crate::paging::N) }",
        "type T = Option<crate::paging::Mmu>;",
        "impl S { fn f() { for x in crate::paging::all() {} } }",
    ] {
        assert_eq!(seen("frame/table.rs", up), ["frame/table.rs points up, to paging"], "{up}");
    }
    assert!(seen("frame/table.rs", "#[cfg(test)] mod tests { use crate::paging::Mmu; }").is_empty());
    assert_eq!(seen("frame/word.rs", "use kvm_ioctls::Kvm;"), ["frame/word.rs names a crate of KVM's"]);
    assert!(seen("machine/kvm/vm.rs", "use kvm_ioctls::Kvm;").is_empty());
    assert_eq!(seen("sched.rs", ""), ["sched.rs: sched has no row"]);
    assert_eq!(
        seen("main.rs", "use hypervisor::cli::run; fn f() { hypervisor::nobody::f() }"),
        Vec::<String>::new(),
        "the same row"
    );
    let both = seen("cli/mod.rs", "use crate::main::f;");
    assert!(both.is_empty(), "{both:?}");
}
