//! A YAML document as a JSON value, and the line of every field in it.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;
use std::collections::HashMap;
use std::fmt;

/// One document.
#[derive(Debug)]
pub(crate) struct Document {
    /// What it says.
    pub(crate) value: Value,
    /// Where it begins.
    pub(crate) line: u64,
    /// Field path, as faults have it (`spec.env[2].name`), to line.
    lines: HashMap<String, u64>,
}

/// A text that is no YAML.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    /// Where, if known.
    pub(crate) line: Option<u64>,
    /// What is wrong.
    pub(crate) message: String,
}

/// Every document of a text; empty ones are left out.
pub(crate) fn documents(text: &str) -> Result<Vec<Document>, SyntaxError> {
    let nodes: Vec<Spanned<Node>> = serde_saphyr::from_multiple(text).map_err(|e| {
        let line = e.location().map(|l| l.line()).filter(|l| *l > 0);
        let message = e.without_snippet().to_string();
        SyntaxError { line, message: message.lines().next().unwrap_or_default().into() }
    })?;
    Ok(nodes.into_iter().map(Document::of).collect())
}

impl Document {
    fn of(node: Spanned<Node>) -> Self {
        let mut lines = HashMap::new();
        let line = node.referenced.line();
        let value = node.value.value(&mut String::new(), &mut lines);
        Self { value, line, lines }
    }

    /// The line of a field, or of what it is missing in.
    pub(crate) fn line_of(&self, path: &str) -> u64 {
        let mut path = path;
        loop {
            if let Some(line) = self.lines.get(path) {
                return *line;
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return self.line,
            }
        }
    }
}

/// A value with the place of each part.
#[derive(Debug)]
enum Node {
    Leaf(Value),
    List(Vec<Spanned<Node>>),
    Object(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl Node {
    /// The value; notes the line of each part under its path.
    fn value(self, path: &mut String, lines: &mut HashMap<String, u64>) -> Value {
        let whole = path.len();
        match self {
            Self::Leaf(value) => value,
            Self::List(items) => {
                let mut list = Vec::with_capacity(items.len());
                for (i, item) in items.into_iter().enumerate() {
                    path.push_str(&format!("[{i}]"));
                    lines.insert(path.clone(), item.referenced.line());
                    list.push(item.value.value(path, lines));
                    path.truncate(whole);
                }
                Value::Array(list)
            }
            Self::Object(fields) => {
                let mut object = Map::new();
                for (key, value) in fields {
                    if whole > 0 {
                        path.push('.');
                    }
                    path.push_str(&key.value);
                    lines.insert(path.clone(), key.referenced.line());
                    object.insert(key.value, value.value.value(path, lines));
                    path.truncate(whole);
                }
                Value::Object(object)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Leaf(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Leaf(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Leaf(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Node, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("a number that is not finite"))?;
        Ok(Node::Leaf(Value::Number(number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Leaf(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Node, A::Error> {
        let mut object = Vec::new();
        while let Some(field) = fields.next_entry()? {
            object.push(field);
        }
        Ok(Node::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# a comment
kind: Function
metadata:
  name: hello
  annotations: {dormouse.dev/local-command: run}
spec:
  port: 8080
  env:
    - name: A
      value: \"1\"
    - {name: B,
       value: yes}
---
---
kind: Other
on: 1.5
empty:
";

    /// A bare `yes` is a boolean to kubectl as well: a variable's value needs quotes around it.
    #[test]
    fn values_are_those_of_kubectl() {
        let documents = documents(TEXT).unwrap();
        assert_eq!(documents.len(), 2);
        let wanted = serde_json::json!({
            "kind": "Function",
            "metadata": {"name": "hello", "annotations": {"dormouse.dev/local-command": "run"}},
            "spec": {"port": 8080, "env": [{"name": "A", "value": "1"}, {"name": "B", "value": true}]}
        });
        assert_eq!(documents[0].value, wanted);
        assert_eq!(documents[1].value, serde_json::json!({"kind": "Other", "on": 1.5, "empty": null}));
    }

    #[test]
    fn every_field_has_its_line() {
        let documents = documents(TEXT).unwrap();
        let [first, second] = documents.as_slice() else { panic!() };
        for (path, line) in [
            ("kind", 2),
            ("metadata.name", 4),
            ("metadata.annotations.dormouse.dev/local-command", 5),
            ("spec.port", 7),
            ("spec.env", 8),
            ("spec.env[0]", 9),
            ("spec.env[0].value", 10),
            ("spec.env[1].value", 12),
            ("spec.env[1].missing", 11),
            ("spec.missing", 6),
            ("missing", 2),
            ("", 2),
        ] {
            assert_eq!(first.line_of(path), line, "{path}");
        }
        assert_eq!((second.line_of("on"), second.line_of("empty")), (16, 17));
    }

    #[test]
    fn syntax_errors_have_a_line() {
        let error = documents("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(error.line.is_some_and(|l| l >= 2), "{error:?}");
        assert!(!error.message.is_empty());
        let error = documents("a: 1\na: 2\n").unwrap_err();
        assert_eq!(error.line, Some(2), "{error:?}");
    }
}
