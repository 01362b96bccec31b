//! The functions of `examples/` on a cluster, put there and called as their READMEs say. Their Redis and PostgreSQL are the
//! distribution's, on the node; their images are made from the distribution's packages (`tests/cluster/images.sh examples`).

use crate::activators::needs_the_node;
use crate::world::{World, ok};
use anyhow::{Context, Result, ensure};
use dormouse_tests::cluster::Space;
use dormouse_tests::orders::{Told, all_at_once};
use dormouse_tests::page::{self, Block, POSTGRES, REDIS};
use dormouse_tests::postgres::{Postgres, name_of};
use dormouse_tests::redis::Redis;
use dormouse_tests::shell::Shell;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

/// The repository.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// What the pages name: where functions are called under `dormouse dev`.
const CALLS: &str = "http://127.0.0.1:8080/fn/default/";

/// How an example comes to a cluster.
#[derive(Clone, Copy)]
enum Way {
    /// `dormouse deploy`: it needs no package.
    Folder,
    /// `kubectl apply`: its code is in its image.
    Image,
}

/// The examples in a case's namespace.
struct Place<'a> {
    world: &'a World,
    space: &'a Space,
    redis: Redis,
    postgres: Postgres,
    /// The database of each.
    databases: Vec<(&'static str, String)>,
    folder: tempfile::TempDir,
}

/// One that needs a database has one of its own.
const WITH_DATABASE: [&str; 3] = ["payment-webhook", "close-orders", "place-order"];

impl<'a> Place<'a> {
    async fn new(world: &'a World, space: &'a Space) -> Result<Self> {
        let ip = node_ip(world).await?;
        let (redis, postgres) = (Redis::start_at(ip).await?, Postgres::start_at(ip).await?);
        let made = WITH_DATABASE.map(|example| Ok((example, postgres.database()?)));
        let databases = made.into_iter().collect::<Result<_>>()?;
        Ok(Self { world, space, redis, postgres, databases, folder: tempfile::tempdir()? })
    }

    /// The same text with this place's namespace and addresses.
    fn here(&self, example: &str, text: &str) -> String {
        let calls = format!("http://{}/fn/{}/", self.world.activator, self.space.name);
        let mut text = text.replace(CALLS, &calls).replace(REDIS, &self.redis.url());
        text = text.replace("namespace: default", &format!("namespace: {}", self.space.name));
        match self.database(example) {
            Some(url) => text.replace(POSTGRES, url),
            None => text,
        }
    }

    /// The URL of an example's database, if it needs one.
    fn database(&self, example: &str) -> Option<&str> {
        self.databases.iter().find(|(of, _)| *of == example).map(|(_, url)| url.as_str())
    }

    /// Puts an example on the cluster and makes the call of its README. Answers what that printed.
    async fn run(&self, example: &str, way: Way) -> Result<String> {
        let (from, to) =
            (Path::new(ROOT).join("examples").join(example), self.folder.path().join("examples").join(example));
        std::fs::create_dir_all(&to)?;
        for entry in std::fs::read_dir(from)? {
            let path = entry?.path();
            let name = path.file_name().context("no name")?;
            match std::fs::read_to_string(&path) {
                Ok(text) => std::fs::write(to.join(name), self.here(example, &text))?,
                // A picture.
                Err(_) => drop(std::fs::copy(&path, to.join(name))?),
            }
        }
        let blocks = page::read(&format!("examples/{example}/README.md"))?;
        let [start, call]: [Block; 2] = blocks.try_into().ok().context("a start and a call are expected")?;
        let errors = self.folder.path().join(format!("errors-{example}"));
        let mut shell = Shell::open(self.folder.path(), &self.space.cluster.envs()?, errors)?;
        // What is made before it starts; `dormouse dev` itself is for one machine.
        let (before, _) = page::last_line(&start.text)?;
        shell.paste(&self.here(example, before)).await?;
        let place = format!("examples/{example}");
        let commands = match way {
            Way::Image => format!("kubectl apply -f {place}/"),
            Way::Folder if to.join("secret.yaml").exists() => {
                format!("kubectl apply -f {place}/secret.yaml\ndormouse deploy {place} -n {}", self.space.name)
            }
            Way::Folder => format!("dormouse deploy {place} -n {}", self.space.name),
        };
        shell.paste(&commands).await?;
        self.space.ready(example, "True").await?;
        let said = shell.paste(&self.here(example, &call.text)).await?;
        shell.end().await?;
        Ok(said)
    }

    /// Calls a function as its schedule does.
    fn due(&self, example: &str) -> Result<()> {
        let said = self.space.cluster.dormouse(&["invoke", example, "-n", &self.space.name, "--event", "schedule"])?;
        ensure!(said.contains("Ran"), "{said}");
        Ok(())
    }

    fn sql(&self, example: &str, statement: &str) -> Result<String> {
        self.postgres.sql(name_of(self.database(example).context("no database")?), statement)
    }
}

/// Where pods reach what listens on their node.
async fn node_ip(world: &World) -> Result<IpAddr> {
    let nodes = Api::<Node>::all(world.cluster.client.clone()).list(&Default::default()).await?;
    let addresses = nodes.items.first().and_then(|n| n.status.as_ref()?.addresses.clone()).context("no address")?;
    let internal = addresses.iter().find(|a| a.type_ == "InternalIP").context("no InternalIP")?;
    Ok(internal.address.parse()?)
}

/// All of them, on one Redis and one PostgreSQL.
pub(crate) async fn they_run_as_their_pages_say(world: World) -> Result<()> {
    needs_the_node()?;
    world
        .alone("examples", |world, space| async move {
            let place = Place::new(&world, &space).await?;
            for (example, language) in [("hello-nodejs", "Node"), ("hello-python", "Python")] {
                let said = place.run(example, Way::Folder).await?;
                ensure!(said.contains(&format!("Hello Ada, from {language}")), "{said}");
            }
            reports(&place).await?;
            place.run("thumbnail", Way::Image).await?;
            let small = std::fs::read(place.folder.path().join("small.jpeg"))?;
            ensure!(small.starts_with(&[0xff, 0xd8, 0xff]), "no JPEG: {}", String::from_utf8_lossy(&small));
            let said = place.run("payment-webhook", Way::Image).await?;
            ensure!(said.contains("evt-1"), "{said}");
            let paid = place.sql("payment-webhook", "SELECT paid_cents FROM invoices WHERE id = 'inv-7'")?;
            ensure!(paid == "1250", "{paid}");
            closes(&place).await?;
            sells(&place).await
        })
        .await
}

/// The report of the day before that of its call, kept in Redis.
async fn reports(place: &Place<'_>) -> Result<()> {
    let said = place.run("nightly-report", Way::Folder).await?;
    ensure!(said.starts_with("there is no report of"), "{said}");
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    // Should the day end here, it is yesterday all the same.
    for day in [today.yesterday()?, today] {
        place.redis.call(&["HSET", &format!("visits:{day}"), "/lamps", "3"])?;
    }
    place.due("nightly-report")?;
    let kept = place.redis.call(&["KEYS", "report:*"])?;
    let day = kept.strip_prefix("report:").context(kept.clone())?;
    let report = ok(&place.world.by_host(place.space, "nightly-report", &format!("/?day={day}"))).await?;
    let report: serde_json::Value = serde_json::from_slice(&report.body)?;
    ensure!(report["total"] == 3 && report["day"] == day, "{report}");
    Ok(())
}

async fn closes(place: &Place<'_>) -> Result<()> {
    let said = place.run("close-orders", Way::Image).await?;
    ensure!(said == "this is done by the clock\n", "{said}");
    place.due("close-orders")?;
    let state = place.sql("close-orders", "SELECT state FROM orders")?;
    ensure!(state == "closed", "{state}");
    Ok(())
}

/// Two hundred callers for fifty lamps, by at most as many instances as the manifest lets run, each with one connection.
async fn sells(place: &Place<'_>) -> Result<()> {
    const NAME: &str = "place-order";
    const CALLERS: usize = 200;
    /// `reservedConcurrency` of the manifest.
    const MOST_INSTANCES: usize = 8;
    let said = place.run(NAME, Way::Image).await?;
    ensure!(said.contains("placed"), "{said}");
    place.sql(NAME, "UPDATE items SET stock = 50")?;
    place.sql(NAME, "DELETE FROM orders")?;
    let redis = place.redis.connections()?;
    let target = place.world.by_host(place.space, NAME, "/");
    let Told { placed, out_of_stock, .. } = all_at_once(&target, CALLERS).await?;
    ensure!((placed.len(), out_of_stock) == (50, CALLERS - 50), "{} placed, {out_of_stock} not", placed.len());
    let sold: BTreeSet<String> = place.sql(NAME, "SELECT id FROM orders")?.lines().map(str::to_owned).collect();
    let left = place.sql(NAME, "SELECT stock FROM items WHERE name = 'lamp'")?;
    ensure!(sold == placed && left == "0", "{left} left; sold {sold:?}, told {placed:?}");
    let url = place.database(NAME).context("no database")?;
    let (redis, postgres) = (place.redis.connections()? - redis, place.postgres.connections(url, NAME)?);
    ensure!(
        redis <= MOST_INSTANCES as u64 && (1..=MOST_INSTANCES).contains(&postgres),
        "{redis} and {postgres} connections"
    );
    Ok(())
}
