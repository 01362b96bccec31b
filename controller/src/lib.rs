//! The controller: Functions become instances, instances become routes, demand becomes more or fewer of them, and
//! records become statements.

pub mod fleet;
