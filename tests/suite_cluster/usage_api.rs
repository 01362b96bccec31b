//! Who may read what through the usage API: tokens and rights of Kubernetes, as the API server knows them.

use crate::world::{World, function, ok};
use anyhow::{Context, Result};
use dormouse_tests::client::Answer;
use dormouse_tests::cluster::{LIMIT, Space};
use dormouse_tests::usage::{Usage, lately};
use dormouse_tests::wait::until;
use std::time::Duration;

/// The audience that the chart gives to the controller.
pub(crate) const AUDIENCE: &str = "--audience=dormouse-usage";

/// Shortest life of a token that an API server gives out.
const LIFE: Duration = Duration::from_secs(600);

/// Until a token that is over is refused: an API server bears clocks that are a minute apart, and remembers 10 s, as we do.
const OVER: Duration = Duration::from_secs(120);

/// In a namespace with a function, two accounts: `reader` views it by the cluster's own role, `clerk` may read everybody's
/// usage.
pub(crate) fn accounts(space: &Space) -> String {
    let name = &space.name;
    let account = |name: &str| format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}}}\n---\n");
    let binding = |kind: &str, role: &str, account: &str| {
        format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}-{account}}}\nroleRef: \
             {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {role}}}\nsubjects: \
             [{{kind: ServiceAccount, name: {account}, namespace: {name}}}]\n---\n"
        )
    };
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: bound}\n";
    [
        account("reader"),
        account("clerk"),
        account("stranger"),
        binding("RoleBinding", "view", "reader"),
        binding("ClusterRoleBinding", "dormouse-usage-reader", "clerk"),
        secret.to_owned(),
    ]
    .concat()
}

/// A token of an account of a namespace.
pub(crate) fn token(space: &Space, account: &str, more: &[&str]) -> Result<String> {
    let said = space.cluster.kubectl(&[&["create", "token", account, "-n", &space.name], more].concat())?;
    Ok(said.trim().to_owned())
}

/// Asks, and holds the answer against the status that it must have.
pub(crate) async fn answers(usage: &Usage, path: &str, status: u16) -> Result<Answer> {
    let answer = usage.ask(path).await?;
    anyhow::ensure!(answer.status == status, "{path} must be answered with {status}: {answer}");
    Ok(answer)
}

/// A function that was called once.
pub(crate) async fn called(world: &World, space: &Space) -> Result<()> {
    space.apply(&function("called", &["idleTimeoutSeconds: 5"]))?;
    space.ready("called", "True").await?;
    ok(&world.by_host(space, "called", "/")).await?;
    world.recorded(&space.name, 1).await.map(drop)
}

/// Questions about one namespace.
fn about(namespace: &str) -> [String; 4] {
    let (lately, month) = (lately(), jiff::Timestamp::now().strftime("%Y-%m"));
    [
        format!("/v1/usage?{lately}&group_by=tenant,function&filter[namespace]={namespace}"),
        format!("/v1/usage?{lately}&filter[function]={namespace}/called"),
        format!("/v1/records?{lately}&namespace={namespace}"),
        format!("/v1/statements/{namespace}/{month}"),
    ]
}

/// Questions about all.
fn about_all() -> [String; 4] {
    let lately = lately();
    [
        format!("/v1/usage?{lately}&group_by=namespace"),
        format!("/v1/usage?{lately}&filter[function]=called"),
        format!("/v1/records?{lately}"),
        format!("/v1/records?{lately}&function=called"),
    ]
}

/// No token and a wrong audience are 401, other namespaces 403 whether they exist or not, a reader of the cluster reads all;
/// what is taken back is refused.
pub(crate) async fn rights_decide_who_reads_what(world: World) -> Result<()> {
    world
        .alone("mine", |world, mine| async move {
            called(&world, &mine).await?;
            mine.apply(&accounts(&mine))?;
            let binding = format!("clusterrolebinding/{}-clerk", mine.name);
            let result = world.alone("other", |world, other| matrix(world, mine.clone(), other)).await;
            mine.cluster.kubectl(&["delete", &binding])?;
            result
        })
        .await
}

async fn matrix(world: World, mine: Space, other: Space) -> Result<()> {
    called(&world, &other).await?;
    let reader = world.usage.with(Some(&token(&mine, "reader", &[AUDIENCE])?));
    // The cluster's own role grows by ours a moment after the installation.
    until("a viewer reads the usage of the namespace", LIMIT, || async {
        answers(&reader, &about(&mine.name)[0], 200).await.map(drop)
    })
    .await?;
    nobody_without_a_right_token(&world, &mine).await?;
    only_the_own_namespace(&reader, &mine, &other).await?;
    let clerk = world.usage.with(Some(&token(&mine, "clerk", &[AUDIENCE])?));
    for usage in [&clerk, &world.usage] {
        for path in about_all().iter().chain(&about(&mine.name)).chain(&about(&other.name)) {
            answers(usage, path, 200).await?;
        }
    }
    by_command(&world, &mine, &other)?;
    what_is_taken_back_is_refused(&world, &reader, &mine).await
}

async fn nobody_without_a_right_token(world: &World, mine: &Space) -> Result<()> {
    let wrong = token(mine, "reader", &["--audience=somebody-else"])?;
    let api_servers = token(mine, "reader", &[])?;
    let stranger = token(mine, "stranger", &[AUDIENCE])?;
    for path in about(&mine.name).iter().chain(&about_all()) {
        for shown in [None, Some("x"), Some(wrong.as_str()), Some(api_servers.as_str())] {
            let answer = answers(&world.usage.with(shown), path, 401).await?;
            anyhow::ensure!(answer.header("www-authenticate").starts_with("Bearer"), "{:?}", answer.headers);
        }
        answers(&world.usage.with(Some(&stranger)), path, 403).await?;
    }
    Ok(())
}

async fn only_the_own_namespace(reader: &Usage, mine: &Space, other: &Space) -> Result<()> {
    for path in &about(&mine.name) {
        let answer = answers(reader, path, 200).await?;
        anyhow::ensure!(!answer.text().contains(&other.name), "{path} names another namespace: {answer}");
    }
    for path in &about_all() {
        let answer = answers(reader, path, 403).await?;
        anyhow::ensure!(!answer.text().contains(&other.name), "{path} names another namespace: {answer}");
    }
    let not_there = format!("{}-not-there", mine.name);
    for (there, not) in about(&other.name).iter().zip(&about(&not_there)) {
        let said = answers(reader, there, 403).await?.text().replace(&other.name, "NAME");
        let unsaid = answers(reader, not, 403).await?.text().replace(&not_there, "NAME");
        anyhow::ensure!(said == unsaid, "{there} tells whether the namespace is there: {said} and {unsaid}");
    }
    Ok(())
}

/// The same by `dormouse usage`, as somebody who may do nothing in the release's namespace; and as the operator, whose
/// kubeconfig may read the Secret.
fn by_command(world: &World, mine: &Space, other: &Space) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("token");
    std::fs::write(&file, token(mine, "reader", &[AUDIENCE])?)?;
    let (url, file) = (world.usage.url(), file.to_str().context("a folder without a name")?);
    let as_reader = |namespace: &str| {
        world.cluster.dormouse(&["usage", "--usage-url", &url, "--token-file", file, "-n", namespace])
    };
    let said = as_reader(&mine.name)?;
    anyhow::ensure!(said.contains(&mine.name) && said.contains("called"), "{said}");
    let refused = as_reader(&other.name).err().context("another namespace's usage was told")?.to_string();
    anyhow::ensure!(refused.contains("lacks the right"), "{refused}");
    let all = world.cluster.dormouse(&["usage", "--cluster", "--usage-url", &url])?;
    anyhow::ensure!(all.contains(&mine.name) && all.contains(&other.name), "{all}");
    Ok(())
}

async fn what_is_taken_back_is_refused(world: &World, reader: &Usage, mine: &Space) -> Result<()> {
    let path = &about(&mine.name)[0];
    let bound = ["--bound-object-kind=Secret", "--bound-object-name=bound", AUDIENCE];
    let bound = world.usage.with(Some(&token(mine, "reader", &bound)?));
    answers(&bound, path, 200).await?;
    mine.cluster.kubectl(&["delete", "secret", "bound", "-n", &mine.name])?;
    let refused = |usage: Usage, status: u16| async move { answers(&usage, path, status).await.map(drop) };
    until("a token whose Secret is gone is refused", LIMIT, || refused(bound.clone(), 401)).await?;
    answers(reader, path, 200).await?;
    mine.cluster.kubectl(&["delete", "rolebinding", &format!("{}-reader", mine.name), "-n", &mine.name])?;
    until("a right that was taken back is gone", LIMIT, || refused(reader.clone(), 403)).await
}

/// A token that is over is refused. In the long form only: no token lives less than ten minutes.
pub(crate) async fn a_token_that_is_over_is_refused(world: World) -> Result<()> {
    if !world.long {
        crate::say("    in the long form only: no API server gives out tokens for less than ten minutes");
        return Ok(());
    }
    world
        .alone("over", |world, space| async move {
            space.apply(&accounts(&space))?;
            let binding = format!("clusterrolebinding/{}-clerk", space.name);
            let clerk = world.usage.with(Some(&token(&space, "clerk", &[AUDIENCE, "--duration=10m"])?));
            let result = async {
                let path = &about_all()[0];
                until("a reader of the cluster reads all", LIMIT, || async {
                    answers(&clerk, path, 200).await.map(drop)
                })
                .await?;
                tokio::time::sleep(LIFE).await;
                until("a token that is over is refused", OVER, || async { answers(&clerk, path, 401).await.map(drop) })
                    .await
            }
            .await;
            space.cluster.kubectl(&["delete", &binding])?;
            result
        })
        .await
}
