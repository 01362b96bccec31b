//! The chart's CRD is what the Rust types say: the file is compared with what `dormouse-controller crd` prints.

use std::path::Path;
use std::process::Command;

/// The first line that differs, with its number, or `None` when the texts are equal.
fn first_difference(want: &str, have: &str) -> Option<String> {
    if want == have {
        return None;
    }
    let (mut want, mut have, mut line) = (want.lines(), have.lines(), 0);
    loop {
        line += 1;
        match (want.next(), have.next()) {
            (None, None) => return Some("they differ in line ends only".into()),
            (w, h) if w == h => {}
            (w, h) => {
                let show = |text: Option<&str>| text.map_or("(end of file)".into(), |t| format!("`{t}`"));
                return Some(format!("line {line}: the types say {}, the file says {}", show(w), show(h)));
            }
        }
    }
}

#[test]
fn the_chart_holds_the_crds_of_the_types() {
    for kind in ["budgets", "functions", "warmpools"] {
        let printed = Command::new(env!("CARGO_BIN_EXE_dormouse-controller")).args(["crd", kind]).output().unwrap();
        assert!(
            printed.status.success(),
            "`dormouse-controller crd` failed ({}): {}",
            printed.status,
            String::from_utf8_lossy(&printed.stderr)
        );
        let file =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../charts/dormouse/files/{kind}.dormouse.dev.yaml"));
        let have = std::fs::read_to_string(&file).unwrap_or_default();
        let want = String::from_utf8(printed.stdout).unwrap();
        if let Some(difference) = first_difference(&want, &have) {
            panic!(
                "{} is not what the types say; {difference}\nrun scripts/crds.sh and commit the file",
                file.display()
            );
        }
    }
}

#[test]
fn a_difference_is_told_by_its_line() {
    assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
    let told = first_difference("a\nb\n", "a\n").unwrap();
    assert_eq!(told, "line 2: the types say `b`, the file says (end of file)");
    assert_eq!(first_difference("a\n", "a").unwrap(), "they differ in line ends only");
}
