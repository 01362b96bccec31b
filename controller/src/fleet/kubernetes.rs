//! Instances as pods of Deployments.
