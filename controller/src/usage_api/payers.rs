//! Which namespaces a tenant pays for: those whose Namespace object says so now, and those of whose calls the ledger says
//! so. A question about a tenant needs the right in each of them.

use super::error::ApiError;
use crate::ledger::LedgerDoor;
use crate::tenants::Tenants;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Most namespaces of a tenant that are asked about one by one: each costs a review of some milliseconds, and is then
/// known for a while. A tenant with more needs the right to see everything.
const MAX_NAMESPACES: usize = 100;

/// Who knows.
#[derive(Clone, Debug)]
pub(super) struct Payers {
    pub(super) tenants: Tenants,
    pub(super) door: LedgerDoor,
    /// Held while the ledger is read: nobody's rights are known yet.
    pub(super) turns: Arc<Semaphore>,
}

/// What is known of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Paid {
    /// It pays, or paid, for these; at least one.
    For(BTreeSet<String>),
    /// For nothing that anybody knows of, or for too much.
    Unclear,
    /// Nobody can say at the moment.
    Unknown,
}

impl Payers {
    /// What a tenant pays, or paid, for. The ledger remembers all: who may read a month must not depend on labels that
    /// have changed since.
    pub(super) async fn of(&self, tenant: &str) -> Result<Paid, ApiError> {
        let (Some(mut namespaces), Ok(ledger)) = (self.tenants.namespaces_of(tenant), self.door.ledger()) else {
            return Ok(Paid::Unknown);
        };
        let _turn = super::within(&self.turns).await?;
        namespaces.append(&mut ledger.namespaces_of(tenant).await?);
        Ok(if (1..=MAX_NAMESPACES).contains(&namespaces.len()) { Paid::For(namespaces) } else { Paid::Unclear })
    }
}
