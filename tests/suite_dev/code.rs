//! Handler code beside its manifest: run as it is, followed as it changes, told when it is broken.

use super::{Bench, Dev};
use nix::sys::signal::Signal;
use serde_json::Value;

const MANIFEST: &str = "\
apiVersion: dormouse.dev/v1alpha1
kind: Function
metadata: {name: hello}
spec:
  source: {runtime: RUNTIME, handler: index.handler}
  concurrency: 5
";

/// What a language's handler is, given what it says; it waits as long as its path has it.
struct Language {
    runtime: &'static str,
    file: &'static str,
    code: &'static str,
    broken: &'static str,
    /// What is told of the broken one.
    fault: &'static str,
}

const LANGUAGES: [Language; 2] = [
    Language {
        runtime: "nodejs",
        file: "index.js",
        code: "const { says } = require('./lib/words')\nlet calls = 0\nexports.handler = async (event) => {\n  calls += 1\n  \
               console.log(`call ${calls} ${event.path}`)\n  \
               await new Promise((done) => setTimeout(done, Number(event.queryStringParameters.wait ?? 0)))\n  \
               return { statusCode: 200, body: `${says} ${calls}` }\n}\n",
        broken: "exports.handler = (",
        fault: "SyntaxError: index.js:1",
    },
    Language {
        runtime: "python",
        file: "index.py",
        code: "import asyncio\nfrom lib.words import says\ncalls = 0\n\nasync def handler(event, context):\n    global calls\n    \
               calls += 1\n    print('call', calls, event['path'])\n    \
               await asyncio.sleep(int(event['queryStringParameters'].get('wait', 0)) / 1000)\n    \
               return {'statusCode': 200, 'body': f'{says} {calls}'}\n",
        broken: "def handler(:",
        fault: "SyntaxError: index.py:1",
    },
];

impl Language {
    fn words(&self, bench: &Bench, says: &str) {
        let (file, text) = match self.runtime {
            "nodejs" => ("lib/words.js", format!("exports.says = '{says}'\n")),
            _ => ("lib/words.py", format!("says = '{says}'\n")),
        };
        std::fs::create_dir_all(bench.path().join("lib")).unwrap();
        bench.write(file, &text);
    }

    fn bench(&self) -> Bench {
        let manifest = MANIFEST.replace("RUNTIME", self.runtime);
        let bench = Bench::new(&[("function.yaml", &manifest), (self.file, self.code)]);
        self.words(&bench, "first");
        bench
    }
}

fn body(answer: &Value) -> &str {
    answer["body"].as_str().unwrap()
}

fn answers(dev: &Dev<'_>, says: &str) {
    dev.until(&format!("{says} answers"), || body(&dev.invoke(&[])).starts_with(says));
}

/// A saved file is served from then on; a call that ran before ends on the code that it began with.
#[test]
fn code_is_run_and_followed() {
    for language in &LANGUAGES {
        let bench = language.bench();
        let dev = bench.start();
        dev.says("Active");
        assert_eq!(body(&dev.invoke(&["/a"])), "first 1", "{}", language.runtime);
        assert_eq!(body(&dev.invoke(&["/b"])), "first 2", "globals live as long as their instance");
        dev.says("call 2 /b");
        std::thread::scope(|scope| {
            let long = scope.spawn(|| bench.json(&["invoke", "hello", "/long?wait=3000", "-o", "json"]));
            dev.says("call 3 /long");
            language.words(&bench, "second");
            dev.says("changed default/hello");
            answers(&dev, "second");
            assert!(!long.is_finished(), "the new code serves while the call of the old one runs");
            assert!(body(&long.join().unwrap()).starts_with("first"));
        });
        dev.ends(Signal::SIGINT);
    }
}

/// Code that cannot be imported is told with its place, and what ran before serves on; mended, it serves.
#[test]
fn broken_code_is_told_and_the_last_good_one_serves() {
    for language in &LANGUAGES {
        let bench = language.bench();
        let dev = bench.start();
        dev.says("Active");
        bench.write(language.file, language.broken);
        dev.says(&format!("HandlerFailed: {}", language.fault));
        assert!(body(&dev.invoke(&[])).starts_with("first"), "{}", language.runtime);
        language.words(&bench, "mended");
        bench.write(language.file, language.code);
        answers(&dev, "mended");
        dev.ends(Signal::SIGINT);
    }
}

/// Broken from the start: whoever calls is told the code of it, and no words.
#[test]
fn who_calls_broken_code_is_told() {
    for language in &LANGUAGES {
        let bench = language.bench();
        bench.write(language.file, language.broken);
        let dev = bench.start();
        dev.says(&format!("HandlerFailed: {}", language.fault));
        let (code, said) = bench.failure(&["invoke", "hello"]);
        assert!(code != 0 && said.contains("HandlerFailed") && !said.contains(language.file), "{said}");
        dev.ends(Signal::SIGINT);
    }
}

/// What `init` writes runs as it is, and answers the request that it writes.
#[test]
fn what_init_writes_runs() {
    for language in &LANGUAGES {
        let bench = Bench::new(&[]);
        let written = bench.run(&["init", language.runtime, "hello", "--dir", "."]);
        assert!(written.status.success(), "{written:?}");
        let dev = bench.start();
        dev.says("Active");
        assert_eq!(body(&dev.invoke(&["-d", "@request.txt"])), r#"{"message":"Hello, dormouse"}"#);
        assert_eq!(body(&dev.invoke(&[])), r#"{"message":"Hello, world"}"#);
        dev.says("greets");
        dev.ends(Signal::SIGINT);
    }
}

/// What depends on packages boots in its folder, where they are.
#[test]
fn packages_beside_it_are_found() {
    let bench = LANGUAGES[0].bench();
    let package = bench.path().join("node_modules/wordy");
    std::fs::create_dir_all(&package).unwrap();
    std::fs::write(package.join("index.js"), "exports.says = 'packaged'").unwrap();
    bench.write("index.js", "exports.handler = async () => ({ statusCode: 200, body: require('wordy').says })");
    let dev = bench.start();
    dev.says("Active");
    assert_eq!(body(&dev.invoke(&[])), "packaged");
    dev.ends(Signal::SIGTERM);
}

#[test]
fn what_cannot_run_here_is_told_before_anything_runs() {
    let source = "  source: {runtime: nodejs, handler: index.handler}\n";
    for (spec, said) in [
        (source.to_owned(), "there is no file"),
        (format!("{source}  command: [x]\n"), "command, args and protocol are the runtime's"),
        (
            "  source: {runtime: nodejs, handler: index.handler, configMap: {name: c}}\n".to_owned(),
            "there are no ConfigMaps here",
        ),
        ("  source: {runtime: nodejs, handler: index}\n".to_owned(), "spec.source.handler"),
        ("  source: {runtime: ruby, handler: a.b}\n".to_owned(), "spec.source.runtime"),
    ] {
        let manifest = MANIFEST.split("spec:").next().unwrap().to_owned() + "spec:\n" + &spec;
        let bench = Bench::new(&[("function.yaml", &manifest)]);
        let (code, told) = bench.failure(&["dev", "."]);
        assert!(code != 0 && told.contains(said) && told.contains("function.yaml:"), "{spec}: {told}");
    }
}
