//! `pv-abi` against Xen's headers: what is to be compared with what.
//!
//! Whatever `pv-abi` puts on the wire names its counterpart in Xen's public headers in its documentation. These
//! citations are read from the sources, so what a reader is told is what is compared:
//!
//! | item                                            | cites                                         |
//! |-------------------------------------------------|-----------------------------------------------|
//! | a structure or another type                     | `struct evtchn_send`, `domid_t`               |
//! | an enumeration or a set of flags                | `EVTCHNOP_*`, the pattern of its values' names |
//! | a constant; a value that misses the pattern     | `EVTCHN_2L_NR_CHANNELS`                       |
//! | a field that the C structure calls otherwise    | `arch.cr2`                                    |
//!
//! A citation stands in backticks, either first of all with a colon or a full stop behind it, or, but for fields, right
//! behind an opening parenthesis. Several are separated by commas: a type is compared with each, an array element by
//! element. Names of headers are none (`xen.h`). Values are found whatever their case is in C. Padding is left out.
//!
//! What has no counterpart is in [`NOT_XENS`], with the reason. An item that is neither there nor cites anything fails
//! `cargo test`, and so does a line that this reader does not know: nothing is left out silently.
//!
//! The script `headers` does the comparing. This program takes the sources' directory as its argument and the words of
//! the headers on stdin. It writes a Rust program which prints our figures as lines of C, and those are compiled
//! together with the headers (`headers.c`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;
use std::{env, fs, io};

/// Items, with all that is in them, that Xen's public headers don't have.
const NOT_XENS: &[(&str, &str)] = &[
    ("address::PAGE_SHIFT", "the processor's"),
    ("address::PAGE_SIZE", "the processor's"),
    ("address::Pfn::INVALID", "in no public header"),
    ("elf_note::OWNER", "in a comment only"),
    ("extension", "Paravane's own"),
    ("grant_table::ENTRIES_PER_FRAME", "a page over an entry's size"),
    ("hypercall::HYPERCALL_PAGE_ENTRY_SIZE", "in a comment only"),
    ("ids::DomId::HOST", "a convention"),
    ("ids::VcpuId", "a plain integer in C"),
    ("io::block::LAST_SECTOR_OF_PAGE", "in a comment only"),
    ("io::block::PROTOCOL", "a string"),
    ("io::block::SECTOR_BYTES", "in a comment only"),
    ("io::block::SEGMENTS_PER_PAGE", "a page over a segment's size"),
    ("memory::COMMAND_MASK", "in no public header"),
    ("memory::E820Entry", "the PC's"),
    ("page_table", "the processor's"),
    ("sched::Poll::MAX_PORTS", "a limit of the hypervisor"),
    ("segment::DESCRIPTORS_PER_FRAME", "the processor's"),
    ("segment::FLAT_KERNEL_CS64", "what a frame of the ABI shows"),
    ("start_info::MAGIC", "in a comment only"),
    ("trap::PageFaultError", "the processor's"),
    ("trap::VECTORS", "the processor's"),
    ("trap::Vector", "the processor's"),
    ("trap::rflags", "the processor's"),
];

/// Counterparts that are no names: C expressions.
const SPELLED_OUT: &[(&str, &str)] = &[
    ("cpuid::EMULATE_PREFIX", "emulate_prefix"),
    ("io::console::IN_SIZE", "sizeof(((struct xencons_interface *)NULL)->in)"),
    ("io::console::OUT_SIZE", "sizeof(((struct xencons_interface *)NULL)->out)"),
    (
        "io::xenstore::ERRORS",
        "({ static uint16_t numbers[sizeof(xsd_errors) / sizeof(*xsd_errors)]; \
         for (unsigned i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) numbers[i] = xsd_errors[i].errnum; numbers; })",
    ),
    ("ring::REQ_EVENT", "offsetof(struct blkif_sring, req_event)"),
    ("ring::REQ_PROD", "offsetof(struct blkif_sring, req_prod)"),
    ("ring::RSP_EVENT", "offsetof(struct blkif_sring, rsp_event)"),
    ("ring::RSP_PROD", "offsetof(struct blkif_sring, rsp_prod)"),
    ("ring::SLOTS", "offsetof(struct blkif_sring, ring)"),
    ("trap::TrapInfo::MASKS_EVENTS", "({ trap_info_t info = {0}; TI_SET_IF(&info, 1); info.flags; })"),
];

fn main() -> ExitCode {
    let sources = env::args_os().nth(1).expect("the directory of pv-abi's sources");
    let words = io::read_to_string(io::stdin()).expect("the words of Xen's headers on stdin");
    let written = read_crate(Path::new(&sources))
        .map_err(|problem| vec![problem])
        .and_then(|items| program(&counterparts(&items)?, &words));
    match written {
        Ok(program) => {
            print!("{program}");
            ExitCode::SUCCESS
        }
        Err(problems) => {
            eprintln!("{}", problems.join("\n"));
            ExitCode::FAILURE
        }
    }
}

// ---- Reading the items ---------------------------------------------------------------------------------------------

/// Something that crosses the wire.
#[derive(Debug)]
struct Item {
    /// Where it is, seen from the crate: `event_channel::BindVirq`.
    path: String,
    /// The path of the type it belongs to, if it is a field or a value.
    owner: Option<String>,
    what: What,
    documentation: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Type,
    Field,
    /// A type of which only the values count.
    Enumeration,
    /// A number, and what makes an integer of it.
    Number(&'static str),
    /// An array of integers, compared one by one.
    Array,
    /// Of a kind that can't be compared.
    Opaque,
}

/// What the lines being read stand in.
struct Context {
    path: String,
    kind: ContextKind,
}

#[derive(Clone, Copy)]
enum ContextKind {
    Module,
    Implementation,
    Structure,
    /// The call of a macro that defines numbers, and what makes an integer of one of them.
    Macro(&'static str),
    /// The numbers of a type which such a macro defines.
    Values(&'static str),
    /// Code, and types that never cross the wire.
    Other,
}

/// The macros that define numbers, and what makes an integer of one of those.
const MACROS: &[(&str, &str)] = &[("wire_enum", ".0"), ("bitflags", ".bits()"), ("errno", ".number()")];

const INTEGERS: &[&str] = &["u8", "u16", "u32", "u64", "usize", "i8", "i16", "i32", "i64", "isize"];

/// Reads all modules of a crate.
fn read_crate(sources: &Path) -> Result<Vec<Item>, String> {
    let mut items = Vec::new();
    read_directory(sources, "", &mut items)?;
    Ok(items)
}

fn read_directory(directory: &Path, module: &str, items: &mut Vec<Item>) -> Result<(), String> {
    let problem = |error: io::Error| format!("{}: {error}", directory.display());
    let entries: Vec<_> = fs::read_dir(directory).and_then(Iterator::collect).map_err(problem)?;
    let mut paths: Vec<_> = entries.iter().map(fs::DirEntry::path).collect();
    paths.sort();
    for path in paths {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            read_directory(&path, &join(module, &name), items)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let module = if name == "lib" || name == "mod" { module.to_owned() } else { join(module, &name) };
            items.extend(read_module(&module, &fs::read_to_string(&path).map_err(problem)?)?);
        }
    }
    Ok(())
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}::{name}") }
}

/// Reads a module as `rustfmt` writes it: a line holds one item, or opens or closes one.
fn read_module(module: &str, text: &str) -> Result<Vec<Item>, String> {
    let mut items = Vec::new();
    let mut contexts = vec![Context { path: module.to_owned(), kind: ContextKind::Module }];
    let (mut documentation, mut on_the_wire) = (String::new(), false);
    let mut lines = text.lines().map(str::trim).enumerate();
    while let Some((number, line)) = lines.next() {
        if line == "#[cfg(test)]" {
            break; // tests stand last
        } else if let Some(text) = line.strip_prefix("///") {
            documentation += text;
            continue;
        } else if line.starts_with("//") {
            continue;
        } else if line.starts_with("#[") {
            on_the_wire |= line.starts_with("#[repr(");
            if !line.ends_with(']') {
                lines.by_ref().find(|(_, line)| line.ends_with(']'));
            }
            continue;
        } else if line.starts_with('}') {
            contexts.pop();
        }
        let documentation = std::mem::take(&mut documentation).trim().to_owned();
        let on_the_wire = std::mem::take(&mut on_the_wire);
        let context = contexts.last().ok_or_else(|| format!("{module}: a brace too many"))?;
        let is_owner = matches!(context.kind, ContextKind::Structure | ContextKind::Values(_));
        let owner = is_owner.then(|| context.path.clone());
        let (item, inside) = read_line(context, line, on_the_wire)
            .ok_or_else(|| format!("{module}, line {}: I can't read this: {line}", number + 1))?;
        items.extend(item.map(|(path, what)| Item { path, owner, what, documentation }));
        if line.ends_with('{') {
            contexts.push(inside);
        }
    }
    Ok(items)
}

/// Reads one line in its context: the item that it defines, with its path, and the context that it opens if it ends in
/// a brace. None at all where the reader doesn't know what it is.
fn read_line(context: &Context, line: &str, on_the_wire: bool) -> Option<(Option<(String, What)>, Context)> {
    use ContextKind::{Implementation, Macro, Module, Other, Structure, Values};
    let item = |name: &str, what| Some((join(&context.path, name), what));
    let inside = |name: &str, kind| Context { path: join(&context.path, name), kind };
    let code = Context { path: String::new(), kind: Other };
    let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    Some(match (context.kind, &words[..]) {
        (Other, _) => (None, code),
        (Structure, ["pub", name, ..]) => (Some((format!("{}.{name}", context.path), What::Field)), code),
        (Values(to_integer), ["const", name, ..] | [name, ..]) if line.matches(" = ").count() == 1 => {
            (item(name, What::Number(to_integer)), code)
        }
        (Macro(to_integer), ["pub", "struct", name, ..]) if line.ends_with('{') => {
            (item(name, What::Enumeration), inside(name, Values(to_integer)))
        }
        (Structure | Values(_) | Macro(_), _) => {
            return (line.is_empty() || line == "}").then_some((None, code));
        }
        (Module, ["pub", "mod", name, ..]) if line.ends_with('{') => (None, inside(name, Module)),
        (Module, ["impl", name, "", ""]) => (None, inside(name, Implementation)),
        (Module, ["pub", "type", name, ..]) => (item(name, What::Type), code),
        (Module, ["pub", "struct", name, ..]) if on_the_wire => {
            let what = if line.contains('<') { What::Opaque } else { What::Type };
            (item(name, what), inside(name, Structure))
        }
        (Module | Implementation, ["pub", "const", name, ..]) if *name != "fn" => {
            (item(name, kind_of_constant(line)), code)
        }
        (Module, ["pub", "union" | "static", ..]) => return None,
        (Module, [name, "", ..]) if line.contains("! {") => {
            let (_, to_integer) = MACROS.iter().find(|(macro_name, _)| macro_name == name)?;
            let context = Context { path: context.path.clone(), kind: Macro(to_integer) };
            return line.ends_with('{').then_some((None, context));
        }
        _ => (None, code),
    })
}

fn kind_of_constant(line: &str) -> What {
    let declared = line.split([':', '=']).nth(1).unwrap_or("").trim();
    let element = declared.trim_start_matches('[').split(';').next().unwrap_or("");
    match declared {
        "Self" => What::Number(".0"),
        _ if INTEGERS.contains(&declared) => What::Number(""),
        _ if INTEGERS.contains(&element) => What::Array,
        _ => What::Opaque,
    }
}

// ---- Their counterparts --------------------------------------------------------------------------------------------

/// How the counterpart's name is found among the words of Xen's headers.
enum Name {
    /// As it is written in C.
    Exact(String),
    /// But for upper and lower case.
    AnyCase(String),
    /// An expression rather than a name.
    Expression(&'static str),
}

impl Name {
    fn text(&self) -> &str {
        match self {
            Self::Exact(text) | Self::AnyCase(text) => text,
            Self::Expression(text) => text,
        }
    }
}

/// An item and what it is compared with, all of it.
struct Pair<'a> {
    item: &'a Item,
    /// For a field: the C structures that it is in.
    within: Vec<String>,
    names: Vec<Name>,
}

/// Pairs each item with its counterparts, or says which items have none.
fn counterparts(items: &[Item]) -> Result<Vec<Pair<'_>>, Vec<String>> {
    let by_path: BTreeMap<&str, &Item> = items.iter().map(|item| (&*item.path, item)).collect();
    let (mut pairs, mut problems) = (Vec::new(), Vec::new());
    let mut unused: BTreeSet<&str> = NOT_XENS.iter().chain(SPELLED_OUT).map(|(path, _)| *path).collect();
    for item in items {
        if let Some((path, _)) = NOT_XENS.iter().find(|(path, _)| is_within(&item.path, path)) {
            unused.remove(path);
            continue;
        }
        let short_name = item.path.rsplit([':', '.']).next().unwrap_or_default();
        if item.what == What::Field && short_name.contains("padding") {
            continue;
        }
        let owner = item.owner.as_deref().and_then(|owner| by_path.get(owner));
        let within = owner.map(|owner| citations(owner)).unwrap_or_default();
        let names = if let Some((path, expression)) = SPELLED_OUT.iter().find(|(path, _)| item.path == *path)
        {
            unused.remove(path);
            vec![Name::Expression(expression)]
        } else {
            names(item, short_name, &within)
        };
        // What an owner lacks is said once, of the owner.
        let owner_lacks = owner.is_some() && within.is_empty();
        match item.what {
            What::Opaque => problems.push(format!("{}: I can't compare what is of this kind", item.path)),
            _ if names.is_empty() && !owner_lacks => {
                problems
                    .push(format!("{}: its documentation cites no counterpart in Xen's headers", item.path));
            }
            What::Enumeration => {}
            _ => pairs.push(Pair { item, within, names }),
        }
    }
    problems.extend(unused.iter().map(|path| format!("{path} is listed as an exception, and isn't there")));
    if problems.is_empty() { Ok(pairs) } else { Err(problems) }
}

/// The names of an item's counterparts: what it cites itself, or else what follows from its owner's citations.
fn names(item: &Item, short_name: &str, within: &[String]) -> Vec<Name> {
    let cited = citations(item);
    if !cited.is_empty() {
        cited.into_iter().map(Name::Exact).collect()
    } else if item.what == What::Field {
        vec![Name::Exact(short_name.to_owned())]
    } else {
        within.iter().map(|pattern| Name::AnyCase(pattern.replace('*', short_name))).collect()
    }
}

fn is_within(path: &str, ancestor: &str) -> bool {
    path.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '.']))
}

/// The names that an item's documentation cites.
fn citations(item: &Item) -> Vec<String> {
    let (documentation, mut found) = (&item.documentation, Vec::new());
    if documentation.starts_with('`') {
        let (names, rest) = list(documentation);
        if rest.starts_with([':', '.']) {
            found.extend(names);
        }
    }
    if item.what != What::Field {
        for (position, _) in documentation.match_indices("(`") {
            found.extend(list(&documentation[position + 1..]).0);
        }
    }
    found.retain(|name| !name.ends_with(".h"));
    found
}

/// The C names in backticks that `text` starts with, commas between them, and what follows.
fn list(text: &str) -> (Vec<String>, &str) {
    let (mut names, mut rest) = (Vec::new(), text);
    while let Some((name, after)) = rest.strip_prefix('`').and_then(|text| text.split_once('`'))
        && is_c_name(name)
    {
        names.push(name.to_owned());
        rest = after.strip_prefix(", ").filter(|next| next.starts_with('`')).unwrap_or(after);
    }
    (names, rest)
}

/// `struct x`, `x`, `x.y` and `X_*`.
fn is_c_name(text: &str) -> bool {
    let name = text.strip_prefix("struct ").or(text.strip_prefix("union ")).unwrap_or(text);
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '*');
    name.chars().all(allowed) && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

// ---- The program that prints our figures ---------------------------------------------------------------------------

const PROLOGUE: &str = r#"
use std::mem::{offset_of, size_of, size_of_val};

fn size(name: &str, bytes: usize) {
    println!("TYPE({name}, {bytes})");
}

fn field(structure: &str, name: &str, offset: usize, bytes: usize) {
    println!("FIELD({structure}, {name}, {offset}, {bytes})");
}

fn number(name: &str, value: u64, bytes: usize) {
    println!("NUMBER({name}, {value:#x}, {bytes})");
}

fn array<T: Copy + Into<u64>>(name: impl Fn(usize) -> String, elements: &[T]) {
    for (index, element) in elements.iter().enumerate() {
        number(&name(index), (*element).into(), size_of::<T>());
    }
}

const fn size_of_field<Type, Field>(_: fn(Type) -> Field) -> usize {
    size_of::<Field>()
}

fn main() {
"#;

fn program(pairs: &[Pair<'_>], headers: &str) -> Result<String, Vec<String>> {
    let any_case = |word: &str| word.to_ascii_uppercase();
    let words: BTreeSet<&str> = headers.split_whitespace().collect();
    let words_any_case: BTreeMap<String, &str> = words.iter().map(|word| (any_case(word), *word)).collect();
    let (mut program, mut problems) = (PROLOGUE.to_owned(), Vec::new());
    for Pair { item, within, names } in pairs {
        let mut spelled = Vec::new();
        for name in names {
            let found = match name {
                Name::Exact(name) => {
                    name.split([' ', '.']).all(|word| words.contains(word)).then_some(&**name)
                }
                Name::AnyCase(name) => words_any_case.get(&any_case(name)).copied(),
                Name::Expression(expression) => Some(*expression),
            };
            match found {
                Some(name) => spelled.push(name),
                None => problems.push(format!("{}: Xen's headers have no {}", item.path, name.text())),
            }
        }
        for line in lines(item, within, &spelled) {
            program += &format!("    {line}\n");
        }
    }
    program += "}\n";
    if problems.is_empty() { Ok(program) } else { Err(problems) }
}

/// Statements that print an item's figures, for each of its counterparts.
fn lines(item: &Item, within: &[String], names: &[&str]) -> Vec<String> {
    let ours = format!("pv_abi::{}", item.path);
    let each = |line: &dyn Fn(&str) -> String| names.iter().map(|name| line(name)).collect();
    match item.what {
        What::Type => each(&|name| format!("size({name:?}, size_of::<{ours}>());")),
        What::Field => {
            let (owner, field) = ours.rsplit_once('.').expect("a field has an owner");
            let figures = format!("offset_of!({owner}, {field}), size_of_field(|it: {owner}| it.{field})");
            let fields = |name| within.iter().map(move |structure| (structure, name));
            let line = |(structure, name)| format!("field({structure:?}, {name:?}, {figures});");
            names.iter().flat_map(fields).map(line).collect()
        }
        What::Number(to_integer) => {
            let ours = format!("{ours}{to_integer}");
            each(&|name| format!("number({name:?}, {ours} as u64, size_of_val(&{ours}));"))
        }
        What::Array if names.len() == 1 => {
            vec![format!("array(|index| format!(\"{{}}[{{index}}]\", {:?}), &{ours});", names[0])]
        }
        What::Array => vec![format!("array(|index| {names:?}[index].to_owned(), &{ours});")],
        What::Enumeration | What::Opaque => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, What)> {
        let items = read_module("m", text).expect("it can be read");
        items.into_iter().map(|item| (item.path, item.what)).collect()
    }

    #[test]
    fn every_item_of_pv_abi_cites_its_counterpart() {
        let items = read_crate(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))).expect("the sources");
        let pairs = counterparts(&items)
            .map_err(|problems| problems.join("\n"))
            .unwrap_or_else(|text| panic!("{text}"));
        assert!(pairs.len() > 300, "only {} items were found", pairs.len());
    }

    #[test]
    fn items_are_found_in_all_shapes() {
        let text = "
            /// `struct s`.
            #[derive(
                Clone, Copy,
            )]
            #[repr(C)]
            pub struct S {
                pub a: u32,
            }
            impl S {
                pub const LIMIT: u32 = 7;
                pub const fn of(a: u32) -> Self {
                    Self { a }
                }
            }
            wire_enum! {
                pub struct E(u8) {
                    ONE = 1,
                }
            }
            pub struct NotOnTheWire {
                pub a: u32,
            }
            pub mod inner {
                pub const PAIR: [u8; 2] = [1, 2];
            }
            #[cfg(test)]
            mod tests {
                pub const X: u32 = 1;
            }";
        let expected = [
            ("m::S", What::Type),
            ("m::S.a", What::Field),
            ("m::S::LIMIT", What::Number("")),
            ("m::E", What::Enumeration),
            ("m::E::ONE", What::Number(".0")),
            ("m::inner::PAIR", What::Array),
        ];
        assert_eq!(read(text), expected.map(|(path, what)| (path.to_owned(), what)));
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        for text in [
            "pub static X: u32 = 1;",
            "pub union U {",
            "unheard_of! {",
            "wire_enum! { pub struct E(u8) { ONE = 1 } }",
            "wire_enum! {\npub struct E(u8) { ONE = 1 }",
            "wire_enum! {\npub struct E(u8) {\nONE = 1, TWO = 2",
            "#[repr(C)]\npub struct S {\nprivate: u32,",
        ] {
            assert!(read_module("m", text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_cites_nothing_is_named() {
        for (text, path) in [("pub const X: u32 = 1;", "m::X"), ("pub const Y: &str = \"\";", "m::Y")] {
            let items = read_module("m", text).expect("it can be read");
            let problems = counterparts(&items).err().expect("a problem");
            assert!(problems.iter().any(|problem| problem.starts_with(&format!("{path}: "))), "{problems:?}");
        }
    }

    #[test]
    fn citations_are_told_from_other_text_in_backticks() {
        for (what, documentation, expected) in [
            (What::Type, "`struct a`, `struct b`: one port.", &["struct a", "struct b"][..]),
            (What::Type, "A number (`domid_t`, `xen.h`).", &["domid_t"]),
            (What::Field, "`arch.cr2`: the address.", &["arch.cr2"]),
            (What::Field, "An array of ports (`u32`).", &[]),
            (What::Type, "`sysenter` in user mode.", &[]),
            (What::Type, "Like [`a`], but `b` (see `c`).", &[]),
        ] {
            let item =
                Item { path: String::new(), owner: None, what, documentation: documentation.to_owned() };
            assert_eq!(citations(&item), expected, "{documentation}");
        }
    }
}
