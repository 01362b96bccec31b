//! The controller: Functions become instances, instances become routes, demand becomes more or fewer of them, and
//! records become statements.

pub mod backoff;
pub mod budgets;
pub mod demand;
pub mod doors;
pub mod fires;
pub mod fleet;
pub mod labels;
pub mod ledger;
pub mod load;
pub mod metrics;
pub mod office;
pub mod parking;
pub mod pools;
pub mod reconcile;
pub mod routes;
#[cfg(test)]
mod sample;
pub mod shares;
pub mod table;
pub mod tenants;
pub mod through;
pub mod usage_api;
pub mod warm_meter;

use budgets::Treasurer;
use doors::Doors;
use dormouse_daemon::{Health, Token};
use fleet::Fleet;
use ledger::LedgerDoor;
use metrics::Metrics;
use office::{Office, Parts};
use parking::Parking;
use prometheus_client::registry::Registry;
use reconcile::plan::Urls;
use routes::Routes;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tenants::Tenants;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use usage_api::{Guard, Requests};
use warm_meter::WarmMeter;

/// Readiness check: records are taken.
pub const LEDGER_CHECK: &str = "ledger";

/// How often the ledger's state is told to the readiness check.
const LEDGER_LOOK: Duration = Duration::from_secs(1);

/// What a controller is set up with.
#[derive(Debug)]
pub struct Config {
    /// Where activators call.
    pub grpc: SocketAddr,
    /// Where the usage API is.
    pub usage: SocketAddr,
    /// The secret that activators share.
    pub token: Token,
    /// Who may ask the usage API what.
    pub usage_guard: Guard,
    /// Routes served beside the usage API, behind the same guard (`dormouse dev` shows its functions there).
    pub beside_usage: Option<axum::Router>,
    /// The ledger; opened by [`Controller::run`] unless it is open already.
    pub ledger: LedgerDoor,
    /// How the addresses of functions are made.
    pub urls: Urls,
    /// Where readiness is told.
    pub health: Health,
}

/// A controller whose ports are bound.
pub struct Controller<F> {
    office: Office<F>,
    post: tokio::sync::mpsc::Sender<office::Mail>,
    routes: Routes,
    warm_meter: WarmMeter,
    parking: Parking,
    grpc: TcpListener,
    usage: TcpListener,
    requests: Requests,
    tenants: Tenants,
    treasurer: Treasurer<F>,
    budgets: budgets::Budgets,
    config: Config,
}

/// A controller that cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// A port is not to be had.
    #[error("cannot listen on {address} for {purpose}: {source}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// What for.
        purpose: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The fleet's events were taken by somebody else.
    #[error("the fleet serves another controller already")]
    FleetTaken,
    /// A server broke.
    #[error("the {0} server ended: {1}")]
    Ended(&'static str, String),
}

impl<F: Fleet> Controller<F> {
    /// Binds the ports; nothing is done yet. The controller's numbers are told by `registry`.
    ///
    /// # Errors
    /// When a port is taken, or the fleet is.
    pub async fn bind(config: Config, fleet: Arc<F>, registry: &mut Registry) -> Result<Self, ControllerError> {
        let grpc = listen(config.grpc, "activators").await?;
        let usage = listen(config.usage, "the usage API").await?;
        let events = fleet.events().ok_or(ControllerError::FleetTaken)?;
        let routes = Routes::default();
        config.health.expect(LEDGER_CHECK);
        config.ledger.register(registry);
        let warm_meter = WarmMeter::default();
        let tenants = fleet.tenants();
        let treasury = fleet.clone();
        let metrics = Metrics::register(registry);
        let parking = metrics.parking.clone();
        let (mut office, post) = Office::new(Parts {
            fleet,
            events,
            routes: routes.clone(),
            urls: config.urls.clone(),
            durability: config.ledger.plan().durability,
            health: config.health.clone(),
            metrics,
            warm_meter: warm_meter.clone(),
            through: config.ledger.through().clone(),
            wall: Arc::new(jiff::Timestamp::now),
        });
        let parts = budgets::Parts { fleet: treasury, ledger: config.ledger.clone(), office: post.clone() };
        let (treasurer, budgets) = Treasurer::new(parts);
        budgets.register(registry);
        office.tell_of_ends(budgets.clone());
        let requests = Requests::register(registry);
        Ok(Self {
            office,
            post,
            routes,
            warm_meter,
            parking,
            grpc,
            usage,
            requests,
            tenants,
            treasurer,
            budgets,
            config,
        })
    }

    /// Where activators call.
    ///
    /// # Errors
    /// When the socket cannot tell.
    pub fn grpc_addr(&self) -> std::io::Result<SocketAddr> {
        self.grpc.local_addr()
    }

    /// Where the usage API is.
    ///
    /// # Errors
    /// When the socket cannot tell.
    pub fn usage_addr(&self) -> std::io::Result<SocketAddr> {
        self.usage.local_addr()
    }

    /// Works until stopped: office, doors, ledger, usage API. Waking goes on whatever becomes of the ledger.
    ///
    /// # Errors
    /// When a server breaks or the fleet ends.
    pub async fn run(self, stop: CancellationToken) -> Result<(), ControllerError> {
        let Self { office, post, routes, warm_meter, parking, grpc, usage, requests, tenants, .. } = self;
        let (treasurer, budgets, config) = (self.treasurer, self.budgets, self.config);
        let Config { token, usage_guard, beside_usage, ledger, health, .. } = config;
        // Not a child of `stop`: what was kept warm up to the end is told while the ledger is still open.
        let all = CancellationToken::new();
        let _all = all.clone().drop_guard();
        let keeper = tokio::spawn(ledger.clone().keep_open(all.clone()));
        let teller = tokio::spawn(tell_ledger(ledger.clone(), health, all.clone()));
        let metered = CancellationToken::new();
        let meter = tokio::spawn(warm_meter.run(ledger.clone(), metered.clone()));
        let mut office = tokio::spawn(office.run(all.clone()));
        let mut treasurer = tokio::spawn(treasurer.run(all.clone()));
        let doors = Doors {
            token,
            routes,
            post: post.clone(),
            ledger: ledger.clone(),
            budgets: budgets.clone(),
            stop: all.clone(),
        };
        let doors = doors::serve(grpc, doors);
        let beside = beside_usage.unwrap_or_default().merge(usage_api::pools(parking)).merge(usage_api::events(post));
        let api = usage_api::router(ledger, budgets, usage_guard.clone(), tenants);
        let api = usage_api::with(api, Some(beside), usage_guard);
        let api = axum::serve(usage, requests.counting(api)).with_graceful_shutdown(all.clone().cancelled_owned());
        let result = tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            ended = &mut office => Err(ControllerError::Ended("office", ended.err().map_or("the fleet ended".into(), |e| e.to_string()))),
            ended = &mut treasurer => Err(ControllerError::Ended("budgets", ended.err().map_or("stopped".into(), |e| e.to_string()))),
            ended = doors => Err(ControllerError::Ended("gRPC", ended.err().map_or("stopped".into(), |e| e.to_string()))),
            ended = api => Err(ControllerError::Ended("usage API", ended.err().map_or("stopped".into(), |e| e.to_string()))),
        };
        // While the ledger is open.
        metered.cancel();
        let _ = meter.await;
        all.cancel();
        let _ = tokio::join!(keeper, teller);
        if !treasurer.is_finished() {
            let _ = treasurer.await;
        }
        if !office.is_finished() {
            // What it asked of the fleet is answered before the process goes.
            let _ = office.await;
        }
        result
    }
}

/// Tells the readiness check what the ledger's door says.
async fn tell_ledger(ledger: LedgerDoor, health: Health, stop: CancellationToken) {
    loop {
        match ledger.problem() {
            None => health.pass(LEDGER_CHECK),
            Some(why) => health.fail(LEDGER_CHECK, why),
        }
        if stop.run_until_cancelled(tokio::time::sleep(LEDGER_LOOK)).await.is_none() {
            return;
        }
    }
}

async fn listen(address: SocketAddr, purpose: &'static str) -> Result<TcpListener, ControllerError> {
    TcpListener::bind(address).await.map_err(|source| ControllerError::Bind { address, purpose, source })
}
