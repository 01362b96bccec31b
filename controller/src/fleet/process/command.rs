//! How a function is started where there are no containers: the text of the `dormouse.dev/local-command` annotation
//! as words.

use std::path::{Path, PathBuf};

/// Most words of a command, as in a container's `command`.
const MAX_WORDS: usize = 64;

/// A text that is no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Begins like a JSON array and is none of strings.
    #[error("is not a JSON array of strings ({0}): write for example '[\"python3\", \"server.py\"]'")]
    Json(String),
    /// A quote has no end.
    #[error("the quote {0} is never closed")]
    Quote(char),
    /// Nothing to run.
    #[error("is empty: write for example '[\"python3\", \"server.py\"]'")]
    Empty,
    /// Too long.
    #[error("has {0} words, more than {MAX_WORDS}")]
    TooMany(usize),
    /// No process can be given such a word.
    #[error("word {0} has a zero byte in it")]
    Zero(usize),
}

/// The words of a command: a JSON array of strings, or words as a shell splits them (quotes and backslashes, nothing
/// is expanded).
///
/// # Errors
/// When it is neither, or has no word.
pub fn words(text: &str) -> Result<Vec<String>, CommandError> {
    let text = text.trim();
    let words = if text.starts_with('[') {
        serde_json::from_str::<Vec<String>>(text).map_err(|e| CommandError::Json(e.to_string()))?
    } else {
        split(text)?
    };
    if words.first().is_none_or(|w| w.is_empty()) {
        return Err(CommandError::Empty);
    }
    if words.len() > MAX_WORDS {
        return Err(CommandError::TooMany(words.len()));
    }
    match words.iter().position(|w| w.contains('\0')) {
        Some(i) => Err(CommandError::Zero(i + 1)),
        None => Ok(words),
    }
}

fn split(text: &str) -> Result<Vec<String>, CommandError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some('\''), c) => word.get_or_insert_default().push(c),
            (_, '\\') => word.get_or_insert_default().extend(chars.next()),
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.map_or(Ok(words), |q| Err(CommandError::Quote(q)))
}

/// The file that a command's first word names: `dormouse` is this program, a path is taken from the manifest's folder,
/// anything else is looked up in `PATH`.
#[must_use]
pub fn program(word: &str, folder: &Path, this: &Path) -> PathBuf {
    if word == "dormouse" {
        this.into()
    } else if word.contains('/') {
        folder.join(word)
    } else {
        word.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_give_the_same_words() {
        for text in [
            r#"["python3", "my server.py", "--x=a\"b"]"#,
            r#"python3 'my server.py' --x=a\"b"#,
            r#"  python3   "my server.py" "--x=a\"b"  "#,
        ] {
            assert_eq!(words(text), Ok(vec!["python3".into(), "my server.py".into(), "--x=a\"b".into()]), "{text}");
        }
        assert_eq!(words("a ''"), Ok(vec!["a".into(), String::new()]));
    }

    #[test]
    fn what_is_no_command_is_told() {
        assert_eq!(words("  "), Err(CommandError::Empty));
        assert_eq!(words("[]"), Err(CommandError::Empty));
        assert_eq!(words("''"), Err(CommandError::Empty));
        assert_eq!(words("a 'b"), Err(CommandError::Quote('\'')));
        assert_eq!(words("a\0 b"), Err(CommandError::Zero(1)));
        assert!(matches!(words("[1]"), Err(CommandError::Json(_))));
        assert_eq!(words(&"a ".repeat(65)), Err(CommandError::TooMany(65)));
    }

    #[test]
    fn the_first_word_is_found() {
        let (folder, this) = (Path::new("/f"), Path::new("/bin/dormouse"));
        assert_eq!(program("dormouse", folder, this), this);
        assert_eq!(program("./run", folder, this), Path::new("/f/./run"));
        assert_eq!(program("/usr/bin/env", folder, this), Path::new("/usr/bin/env"));
        assert_eq!(program("python3", folder, this), Path::new("python3"));
    }
}
