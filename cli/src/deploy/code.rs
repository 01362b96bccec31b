//! The ConfigMap that the files beside a function's manifest become.

use crate::exit::Failure;
use dormouse_core::source::{Code, key_of};
use k8s_openapi::ByteString;
use serde_json::{Map, Value, json};

/// Digits of the code's digest in the name: two of one function's last 1000 versions share them with a probability of
/// 1000^2 / 2 / 16^10, about 5 in ten million.
const DIGITS: usize = 10;

/// The ConfigMap of a function's code. Another code is another ConfigMap, which the function's spec names: so code and spec
/// change at one moment, and what is told of the spec's generation is told of this code.
pub(crate) fn name(function: &str, code: &Code) -> String {
    format!("{function}-code-{}", &code.digest()[..DIGITS])
}

/// Selects the ConfigMaps of a function's code.
pub(crate) fn selector(function: &str) -> String {
    format!("{CODE_OF}={function}")
}

const CODE_OF: &str = "dormouse.dev/code-of";

/// What no ConfigMap can hold.
pub(crate) fn fault(code: &Code) -> Option<String> {
    let bad = code.files().map(|(path, _)| path).find(|path| key_of(path).is_none())?;
    Some(format!(
        "{bad:?} cannot be a key of a ConfigMap, which has letters, digits, '-', '_' and '.' only, and '..' for a folder's '/': rename it"
    ))
}

/// The ConfigMap; with the function's uid it goes with the function.
pub(crate) fn config_map(function: &str, code: &Code, uid: Option<&str>) -> Result<Value, Failure> {
    let (mut data, mut binary) = (Map::new(), Map::new());
    for (path, content) in code.files() {
        let key = key_of(path).ok_or_else(|| Failure::usage(format!("{path:?} cannot be a key of a ConfigMap")))?;
        match std::str::from_utf8(content) {
            Ok(text) => data.insert(key, text.into()),
            Err(_) => {
                let bytes = serde_json::to_value(ByteString(content.to_vec())).map_err(Failure::failed)?;
                binary.insert(key, bytes)
            }
        };
    }
    let labels = json!({
        "app.kubernetes.io/name": function, "app.kubernetes.io/part-of": "dormouse",
        "app.kubernetes.io/managed-by": "dormouse-cli", CODE_OF: function,
    });
    let owner =
        uid.map(|uid| json!({"apiVersion": "dormouse.dev/v1alpha1", "kind": "Function", "name": function, "uid": uid}));
    let owners: Vec<Value> = owner.into_iter().collect();
    let mut map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name(function, code), "labels": labels, "ownerReferences": owners},
        "immutable": true,
    });
    // An empty one is not the same as none to who looks whether something changes that must not.
    for (field, files) in [("data", data), ("binaryData", binary)] {
        if !files.is_empty() {
            map[field] = Value::Object(files);
        }
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(files: &[(&str, &[u8])]) -> Code {
        Code::new(files.iter().map(|(path, content)| ((*path).to_owned(), content.to_vec())).collect()).unwrap()
    }

    #[test]
    fn keys_are_paths() {
        let code = code(&[("index.js", b"x"), ("lib/deep/data.bin", b"\xff\x00"), ("lib/text.js", b"y")]);
        assert_eq!(fault(&code), None);
        let map = config_map("hello", &code, Some("u-1")).unwrap();
        assert_eq!(map["data"], json!({"index.js": "x", "lib..text.js": "y"}));
        assert_eq!(map["binaryData"], json!({"lib..deep..data.bin": "/wA="}));
        assert_eq!(map["metadata"]["name"], name("hello", &code));
        assert!(name("hello", &code).starts_with("hello-code-"));
        assert_eq!(map["metadata"]["ownerReferences"][0]["uid"], "u-1");
        let text = config_map("hello", &super::tests::code(&[("a.js", b"x")]), None).unwrap();
        assert_eq!(text["metadata"]["ownerReferences"], json!([]));
        assert_eq!(text.get("binaryData"), None);
    }

    #[test]
    fn a_path_that_is_no_key_is_told() {
        let said = fault(&code(&[("a.js", b"x"), ("a b.js", b"x")])).unwrap();
        assert!(said.contains("\"a b.js\" cannot be a key"), "{said}");
    }
}
