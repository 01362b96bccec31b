//! The wire changes only compatibly: what `descriptor.bin` holds must still mean the same.
//!
//! Old and new processes talk while a cluster rolls. Additions pass; `DORMOUSE_UPDATE=1 cargo test -p dormouse-proto`
//! writes them into the file. A removed or changed field fails: give it a new number and reserve the old one.

use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};
use std::collections::BTreeMap;

/// Every fact that a peer relies on, by name: `dormouse.v1.Frame#3` -> `first_seq uint64 optional`.
fn facts(set: &FileDescriptorSet) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    for file in &set.file {
        let package = file.package();
        for message in &file.message_type {
            message_facts(message, &format!("{package}.{}", message.name()), &mut facts);
        }
        for enumeration in &file.enum_type {
            enum_facts(enumeration, &format!("{package}.{}", enumeration.name()), &mut facts);
        }
        for service in &file.service {
            for m in &service.method {
                let stream = |on: bool| if on { "stream " } else { "" };
                let types = format!(
                    "{}{} -> {}{}",
                    stream(m.client_streaming()),
                    m.input_type(),
                    stream(m.server_streaming()),
                    m.output_type()
                );
                facts.insert(format!("{package}.{}/{}", service.name(), m.name()), types);
            }
        }
    }
    facts
}

fn message_facts(message: &DescriptorProto, path: &str, facts: &mut BTreeMap<String, String>) {
    for f in &message.field {
        let meaning = format!("{} {:?} {} {:?}", f.name(), f.r#type(), f.type_name(), f.label());
        facts.insert(format!("{path}#{}", f.number()), meaning);
    }
    for inner in &message.nested_type {
        message_facts(inner, &format!("{path}.{}", inner.name()), facts);
    }
    for inner in &message.enum_type {
        enum_facts(inner, &format!("{path}.{}", inner.name()), facts);
    }
}

fn enum_facts(enumeration: &EnumDescriptorProto, path: &str, facts: &mut BTreeMap<String, String>) {
    for value in &enumeration.value {
        facts.insert(format!("{path}#{}", value.number()), value.name().into());
    }
}

/// What of the old is missing or different in the new.
fn broken(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<String> {
    let differs = |(place, was): (&String, &String)| match new.get(place) {
        Some(is) if is == was => None,
        Some(is) => Some(format!("{place} was {was:?}, is {is:?}")),
        None => Some(format!("{place} was {was:?}, is gone")),
    };
    old.iter().filter_map(differs).collect()
}

fn current() -> FileDescriptorSet {
    let root = env!("CARGO_MANIFEST_DIR");
    let files = ["routes", "demand", "ledger", "budgets", "fires"].map(|f| format!("{root}/dormouse/v1/{f}.proto"));
    let mut set = protox::compile(files, [root]).expect("the .proto files compile");
    // Places in the source are not part of the wire.
    set.file.iter_mut().for_each(|f| f.source_code_info = None);
    set
}

#[test]
fn the_wire_changes_only_compatibly() {
    use prost::Message;
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/descriptor.bin");
    let set = current();
    let new = facts(&set);
    let old = std::fs::read(path).ok().map(|b| FileDescriptorSet::decode(&b[..]).expect("descriptor.bin is readable"));
    let broken = broken(&old.as_ref().map(facts).unwrap_or_default(), &new);
    assert_eq!(broken, Vec::<String>::new(), "peers of the last version would misread these");
    if std::env::var_os("DORMOUSE_UPDATE").is_some() {
        std::fs::write(path, set.encode_to_vec()).expect("descriptor.bin is written");
    } else {
        assert_eq!(
            old.as_ref().map(facts),
            Some(new),
            "write the additions: DORMOUSE_UPDATE=1 cargo test -p dormouse-proto"
        );
    }
}

#[test]
fn a_removed_renumbered_or_retyped_field_is_seen() {
    let old = facts(&current());
    for (place, meaning) in [("dormouse.v1.Frame#3", None), ("dormouse.v1.Frame#4", Some("count String  Optional"))] {
        let mut new = old.clone();
        let was = match meaning {
            None => new.remove(place),
            Some(m) => new.insert(place.into(), m.into()),
        };
        assert!(was.is_some());
        assert_eq!(broken(&old, &new).len(), 1);
    }
    let mut more = old.clone();
    more.insert("dormouse.v1.Frame#99".into(), "new".into());
    assert_eq!(broken(&old, &more), Vec::<String>::new());
}
