//! Which build of which program a process is.

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// Puts `dormouse_build_info{program="...",version="..."} 1` into a registry.
pub fn register(registry: &mut Registry, program: &'static str, version: &'static str) {
    let info = Info::new([("program", program), ("version", version)]);
    registry.register("dormouse_build", "The program and its version", info);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_says_what_it_is() {
        let (mut registry, mut text) = (Registry::default(), String::new());
        register(&mut registry, "p", "1.2.3");
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("dormouse_build_info{program=\"p\",version=\"1.2.3\"} 1\n"), "{text}");
    }
}
