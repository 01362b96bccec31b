//! A function as `list` and `describe` show it: the same shape from `dev` (over its usage port) and from a cluster.

use dormouse_core::function::Function;
use serde::{Deserialize, Serialize};

/// A function, its instances and what was told of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct View {
    /// The object with its status.
    pub(crate) function: Function,
    /// Its instances.
    pub(crate) instances: Vec<InstanceView>,
    /// Newest last.
    pub(crate) events: Vec<EventView>,
    /// Where it was written, in `dev`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) manifest: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InstanceView {
    pub(crate) name: String,
    pub(crate) phase: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) revision: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<String>,
    /// In `dev` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<u32>,
    pub(crate) restarts: u32,
    /// Code and message, when something is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trouble: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventView {
    /// Normal or Warning.
    pub(crate) kind: String,
    pub(crate) reason: String,
    pub(crate) message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) time: Option<jiff::Timestamp>,
}

impl View {
    pub(crate) fn namespace(&self) -> &str {
        self.function.metadata.namespace.as_deref().unwrap_or("default")
    }

    pub(crate) fn name(&self) -> &str {
        self.function.metadata.name.as_deref().unwrap_or_default()
    }

    /// A condition's status and reason; `Unknown` before the controller has spoken.
    pub(crate) fn ready(&self) -> (&str, &str) {
        let conditions = self.function.status.iter().flat_map(|s| &s.conditions);
        let ready = conditions.into_iter().find(|c| c.type_ == "Ready");
        ready.map_or(("Unknown", "-"), |c| (c.status.as_str(), c.reason.as_str()))
    }

    pub(crate) fn url(&self) -> &str {
        self.function.status.as_ref().and_then(|s| s.url.as_deref()).unwrap_or("-")
    }

    pub(crate) fn state(&self) -> String {
        let state = self.function.status.as_ref().and_then(|s| s.state);
        state.map_or_else(|| "-".into(), |s| format!("{s:?}"))
    }

    /// When it is called next by the clock.
    pub(crate) fn next(&self) -> String {
        let next = self.function.status.as_ref().and_then(|s| s.next_schedule.as_ref());
        next.map_or_else(|| "-".into(), |next| next.0.to_string())
    }

    pub(crate) fn ready_instances(&self) -> i32 {
        self.function.status.as_ref().and_then(|s| s.instances).map_or(0, |i| i.ready)
    }

    pub(crate) fn age(&self, now: jiff::Timestamp) -> String {
        let made = self.function.metadata.creation_timestamp.as_ref();
        made.map_or_else(|| "-".into(), |t| age(now.duration_since(t.0).as_secs()))
    }
}

/// As kubectl writes it: the largest unit, and the next one while the number is small.
pub(crate) fn age(seconds: i64) -> String {
    let seconds = seconds.max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => format!("{}m{}s", seconds / 60, seconds % 60),
        600..10_800 => format!("{}m", seconds / 60),
        10_800..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::age;

    #[test]
    fn ages_are_short() {
        let ages: Vec<String> = [-1, 5, 119, 125, 700, 10_800, 172_800].into_iter().map(age).collect();
        assert_eq!(ages, ["0s", "5s", "119s", "2m5s", "11m", "3h", "2d"]);
    }
}
