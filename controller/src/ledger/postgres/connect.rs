//! Connections to the database, and its schema.

use super::{Trouble, place};
use deadpool_postgres::{Manager, ManagerConfig, Object, RecyclingMethod};
use std::ops::{Deref, DerefMut};
use std::time::Duration;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Connections at once: each frame and each question holds one. PostgreSQL's own default limit is 100 for everybody.
const CONNECTIONS: usize = 8;
/// How long a connection may take to be made, and how long a question waits for a free one.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the other side may be silent before it is taken for gone.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a lock is waited for, in milliseconds: less than the 10 s that an activator waits for its frame, so that what
/// nobody waits for any more is gone before it is sent again.
const LOCKED_MS: u32 = 8_000;
/// How long a statement may run: reading a month of everything takes seconds.
const STATEMENT: Duration = Duration::from_secs(120);

/// The steps by which the schema was made, in order; each is applied once.
const MIGRATIONS: [&str; 3] =
    [include_str!("migrations/1.sql"), include_str!("migrations/2.sql"), include_str!("migrations/3.sql")];
/// Held while the schema is changed: "dormouse" as a number.
const LOCK: i64 = 0x646f_726d_6f75_7365;

/// A database that cannot be used. The messages are for people: where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// It cannot be reached, or refuses.
    #[error(
        "{place} cannot be used: {why}: check the address, the password, and that the user may create a schema there"
    )]
    Failed {
        /// Where, without the password.
        place: String,
        /// What was said.
        why: String,
    },
    /// A newer program made its schema.
    #[error(
        "the ledger in {place} has schema version {found}, and this program knows versions up to {known}: use a newer one; nothing was changed"
    )]
    Newer {
        /// Where.
        place: String,
        /// Its version.
        found: i32,
        /// The newest that is known here.
        known: usize,
    },
    /// There are no certificates to check it by.
    #[error(
        "{place} is to be reached over TLS, and no certificates of authorities were found: set SSL_CERT_FILE, or sslmode=disable"
    )]
    NoRoots {
        /// Where.
        place: String,
    },
}

/// Connections, made as they are needed.
pub(super) struct Pool(deadpool_postgres::Pool);

impl Pool {
    /// Connects once, and makes the schema or brings it up to date.
    pub(super) async fn open(config: &Config) -> Result<Self, PostgresError> {
        let mut config = config.clone();
        config.connect_timeout(PATIENCE).application_name("dormouse-controller");
        config.keepalives_idle(SILENCE).keepalives_interval(SILENCE / 3).tcp_user_timeout(SILENCE);
        config.options(options(config.get_options()));
        let recycle = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = match tls(&config)? {
            None => Manager::from_config(config.clone(), NoTls, recycle),
            Some(tls) => Manager::from_config(config.clone(), tls, recycle),
        };
        let pool = deadpool_postgres::Pool::builder(manager)
            .max_size(CONNECTIONS)
            .wait_timeout(Some(PATIENCE))
            .create_timeout(Some(PATIENCE))
            .recycle_timeout(Some(PATIENCE))
            .runtime(deadpool_postgres::Runtime::Tokio1)
            .build();
        let failed = |why: String| PostgresError::Failed { place: place(&config), why };
        let pool = Self(pool.map_err(|e| failed(e.to_string()))?);
        let mut client = pool.client().await.map_err(|e| failed(e.words()))?;
        let found = migrate(&mut client).await.map_err(|e| failed(e.words()))?;
        match usize::try_from(found) {
            Ok(found) if found <= MIGRATIONS.len() => Ok(pool),
            _ => Err(PostgresError::Newer { place: place(&config), found, known: MIGRATIONS.len() }),
        }
    }

    /// A connection.
    pub(super) async fn client(&self) -> Result<Held, Trouble> {
        Ok(Held(Some(self.0.get().await?)))
    }
}

/// A connection while it is used. Who drops it without an answer, because nobody waits for one any more or because it
/// failed, ends it: the server may still be working for it.
pub(super) struct Held(Option<Object>);

impl Held {
    /// Whether nobody has used it before.
    pub(super) fn is_new(&self) -> bool {
        Object::metrics(self).recycle_count == 0
    }

    /// Gives it back with its last answer.
    pub(super) fn after<T>(mut self, answer: Result<T, Trouble>) -> Result<T, Trouble> {
        if answer.is_ok() {
            drop(self.0.take());
        }
        answer
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}

impl Deref for Held {
    type Target = Object;

    #[expect(clippy::expect_used, reason = "it is there until it is given back")]
    fn deref(&self) -> &Object {
        self.0.as_ref().expect("a connection that was given back is not used")
    }
}

impl DerefMut for Held {
    #[expect(clippy::expect_used, reason = "it is there until it is given back")]
    fn deref_mut(&mut self) -> &mut Object {
        self.0.as_mut().expect("a connection that was given back is not used")
    }
}

/// What the server is told of each connection, behind what the URL says: nothing of ours ends up in, or comes from,
/// anybody else's schema; what is acknowledged is on its disk; and when this side is gone it lets go of locks.
fn options(given: Option<&str>) -> String {
    let (statement, silence) = (STATEMENT.as_millis(), SILENCE.as_millis());
    format!(
        "{} -c search_path=dormouse -c synchronous_commit=on -c statement_timeout={statement} -c lock_timeout={LOCKED_MS} \
         -c idle_in_transaction_session_timeout={silence} -c tcp_keepalives_idle={} -c tcp_keepalives_interval=10 \
         -c tcp_keepalives_count=3",
        given.unwrap_or_default(),
        SILENCE.as_secs()
    )
}

/// TLS by the authorities that the system knows, or those that SSL_CERT_FILE names. Without any, what only prefers it does
/// without.
fn tls(config: &Config) -> Result<Option<MakeRustlsConnect>, PostgresError> {
    if config.get_ssl_mode() == SslMode::Disable {
        return Ok(None);
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = rustls::RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let named = std::env::var_os("SSL_CERT_FILE").is_some();
        if named || config.get_ssl_mode() != SslMode::Prefer {
            return Err(PostgresError::NoRoots { place: place(config) });
        }
        tracing::warn!(
            place = place(config),
            "the database is reached without TLS: there are no authorities to check it by"
        );
        return Ok(None);
    }
    let client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(Some(MakeRustlsConnect::new(client)))
}

/// Applies the steps that the schema lacks, all or none, one process at a time. Answers its version; a newer one than is
/// known is left alone.
async fn migrate(client: &mut Client) -> Result<i32, Trouble> {
    let step = client.transaction().await?;
    step.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    // Who may not make a schema can be given one.
    if step.query_opt("SELECT 1 FROM pg_namespace WHERE nspname = 'dormouse'", &[]).await?.is_none() {
        step.batch_execute("CREATE SCHEMA dormouse").await?;
    }
    step.batch_execute("CREATE TABLE IF NOT EXISTS dormouse.schema_version (version integer NOT NULL)").await?;
    let found = step.query_opt("SELECT version FROM dormouse.schema_version", &[]).await?;
    let found: i32 = found.map_or(0, |row| row.get(0));
    let known = MIGRATIONS.len();
    let applied = usize::try_from(found).unwrap_or(known);
    if applied >= known {
        return Ok(found);
    }
    for migration in &MIGRATIONS[applied..] {
        step.batch_execute(migration).await?;
    }
    let version = i32::try_from(known).unwrap_or(i32::MAX);
    step.batch_execute("DELETE FROM dormouse.schema_version").await?;
    step.execute("INSERT INTO dormouse.schema_version VALUES ($1)", &[&version]).await?;
    step.commit().await?;
    tracing::info!(from = found, to = version, "the ledger's schema was brought up to date");
    Ok(version)
}
