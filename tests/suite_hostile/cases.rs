//! The corpus as data: see corpus.txt for what its lines mean.

use std::collections::BTreeMap;

/// An instance that the corpus is run against.
pub(crate) const INSTANCES: [&str; 3] = ["node", "python", "nginx"];
/// Longest target and header that every instance takes.
const LONG: usize = 3000;

/// One case.
#[derive(Clone, Debug, Default)]
pub(crate) struct Case {
    pub(crate) name: String,
    says: Said,
    says_of: BTreeMap<String, Said>,
    sees: Vec<String>,
    sees_of: BTreeMap<String, Vec<String>>,
    /// Names and values of headers; the name of the only instance it holds for, if any.
    pub(crate) headers: Vec<(Option<String>, String, String)>,
    pub(crate) no_headers: Vec<String>,
    pub(crate) our_headers: Vec<(String, String)>,
    pub(crate) no_trailers: Vec<String>,
    pub(crate) broken: usize,
    pub(crate) waived: bool,
    bytes: Vec<u8>,
}

/// What we answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) statuses: Vec<u16>,
    pub(crate) close: bool,
}

/// A request as an instance saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meant {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) bytes: u64,
}

impl Case {
    pub(crate) fn says(&self, instance: &str) -> &Said {
        self.says_of.get(instance).unwrap_or(&self.says)
    }

    /// The requests that an instance must have seen whole.
    pub(crate) fn sees(&self, instance: &str, via: &str) -> Vec<Meant> {
        let lines = self.sees_of.get(instance).unwrap_or(&self.sees);
        lines.iter().map(|line| meant(&self.fill(line, instance, via))).collect()
    }

    /// A name that is in no other request.
    pub(crate) fn id(&self, via: &str) -> String {
        format!("{}.{via}", self.name)
    }

    pub(crate) fn fill(&self, text: &str, instance: &str, via: &str) -> String {
        let host = crate::stand::host(instance);
        text.replace("{id}", &self.id(via))
            .replace("{host}", &host)
            .replace("{CAPS}", &host.to_uppercase())
            .replace("{long}", &"a".repeat(LONG))
    }

    /// The bytes as they go to one instance through one proxy.
    pub(crate) fn bytes(&self, instance: &str, via: &str) -> Vec<u8> {
        // Latin-1 both ways: every byte stays what it is.
        let text: String = self.bytes.iter().map(|&b| char::from(b)).collect();
        self.fill(&text, instance, via).chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
    }

    fn line(&mut self, line: &str) -> Option<()> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if let Some(times) = word.strip_prefix("sends*") {
            for n in 0..times.parse::<usize>().ok()? {
                self.bytes.extend(unescape(&rest.replace("{n}", &format!("{n}")))?);
            }
            return Some(());
        }
        match word {
            "why" => {}
            "says" => self.says = said(rest)?,
            "sees" => self.sees.push(rest.into()),
            "header" => {
                let (name, value) = rest.split_once(": ")?;
                self.headers.push((None, name.into(), value.into()));
            }
            "no-header" => self.no_headers.push(rest.into()),
            "our-header" => {
                let (name, value) = rest.split_once(": ")?;
                self.our_headers.push((name.into(), value.into()));
            }
            "no-trailer" => self.no_trailers.push(rest.into()),
            "broken" => self.broken = rest.parse().ok()?,
            "waive" => self.waived = true,
            "sends" => self.bytes.extend(unescape(rest)?),
            instance if INSTANCES.contains(&instance) => self.line_of(instance, rest)?,
            _ => return None,
        }
        Some(())
    }

    fn line_of(&mut self, instance: &str, rest: &str) -> Option<()> {
        let (word, rest) = rest.split_once(' ')?;
        match word {
            "says" => drop(self.says_of.insert(instance.into(), said(rest)?)),
            "sees" => {
                let seen = self.sees_of.entry(instance.into()).or_default();
                if rest != "nothing" {
                    seen.push(rest.into());
                }
            }
            "header" => {
                let (name, value) = rest.split_once(": ")?;
                self.headers.push((Some(instance.into()), name.into(), value.into()));
            }
            _ => return None,
        }
        Some(())
    }
}

fn said(text: &str) -> Option<Said> {
    let (statuses, end) = text.rsplit_once(' ').unwrap_or(("", text));
    let statuses = statuses.split_whitespace().map(|s| s.parse().ok()).collect::<Option<_>>()?;
    let close = match end {
        "close" => true,
        "open" => false,
        _ => return None,
    };
    Some(Said { statuses, close })
}

fn meant(line: &str) -> Meant {
    let mut words = line.split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    Meant { method, target, bytes: words.next().unwrap().parse().unwrap() }
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next()? {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'0' => 0,
            b'\\' => b'\\',
            b'x' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            _ => return None,
        });
    }
    Some(bytes)
}

/// Every case of the corpus.
pub(crate) fn all() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (n, line) in include_str!("corpus.txt").lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix("case ") {
            assert!(cases.iter().all(|c| c.name != name), "two cases are called {name}");
            cases.push(Case { name: name.into(), ..Case::default() });
        } else {
            let understood = cases.last_mut().and_then(|case| case.line(line));
            assert!(understood.is_some(), "corpus.txt line {}: {line}", n + 1);
        }
    }
    cases
}
