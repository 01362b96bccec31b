//! The examples that greet: what their READMEs say, and a save while they run.

use crate::LIMIT;
use crate::dev::Dev;
use crate::place::Place;
use anyhow::{Context, Result, ensure};
use dormouse_tests::wait::until;
use serde_json::{Value, json};

async fn greets(example: &str, language: &str, file: &str) -> Result<()> {
    let place = Place::of(example, None, None)?;
    let (dev, said) = place.by_its_readme(example).await?;
    let greeting = |name: &str| format!("Hello {name}, from {language}");
    let first: Value = serde_json::from_str(&said)?;
    ensure!(first == json!({"greeting": greeting("Ada"), "function": example, "calls": 1}), "{said}");
    // The instance of the call before, with what it had counted.
    let second: Value = serde_json::from_slice(&dev.get(example, "").await?.body)?;
    ensure!(second == json!({"greeting": greeting("world"), "function": example, "calls": 2}), "{second}");
    dev.says("greeting").await?;

    let path = place.example(example).join(file);
    let code = std::fs::read_to_string(&path)?;
    std::fs::write(&path, code.replace("Hello", "Good morning"))?;
    let third = until("the saved code answers", LIMIT, async || {
        let text = dev.get(example, "").await?.text();
        text.contains("Good morning world").then_some(text.clone()).context(text)
    })
    .await?;
    // A new instance, which has counted nothing yet.
    ensure!(serde_json::from_str::<Value>(&third)?["calls"] == 1, "{third}");
    dev.end()
}

#[tokio::test(flavor = "multi_thread")]
async fn nodejs_greets_and_takes_a_save() -> Result<()> {
    greets("hello-nodejs", "Node", "index.js").await
}

#[tokio::test(flavor = "multi_thread")]
async fn python_greets_and_takes_a_save() -> Result<()> {
    greets("hello-python", "Python", "index.py").await
}

/// The image beside the handlers: what was there before them.
#[tokio::test(flavor = "multi_thread")]
async fn the_image_greets() -> Result<()> {
    let place = Place::of("hello", None, None)?;
    let dev = Dev::start(&place, &["dev", "examples/hello"]).await?;
    let said = dev.get("hello", "").await?;
    ensure!(said.text().starts_with("Hello from hello"), "{said}");
    dev.end()
}
