//! The controller: Functions become instances, instances become routes, demand becomes more or fewer of them, and
//! records become statements.

pub mod demand;
pub mod fleet;
pub mod labels;
pub mod ledger;
pub mod metrics;
pub mod office;
pub mod reconcile;
pub mod routes;
