//! `/v1/functions` of a `dev`, beside the usage API on its loopback port: what `list` and `describe` show, and
//! `POST /v1/functions/NAMESPACE/NAME/sleep`, which puts one to sleep.

use crate::view::{EventView, InstanceView, View};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use dormouse_controller::fleet::process::{Processes, Shown};
use dormouse_controller::fleet::{Instance, NoteKind};
use dormouse_core::FunctionKey;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Function to `file:line`, as last applied.
pub(crate) type Places = Arc<Mutex<BTreeMap<String, String>>>;

#[derive(Clone)]
struct Shelf {
    fleet: Processes,
    places: Places,
}

/// The route. Its caller's token is checked by the usage API around it.
pub(crate) fn router(fleet: Processes, places: Places) -> Router {
    Router::new()
        .route("/v1/functions", get(functions))
        .route("/v1/functions/{namespace}/{name}/sleep", post(sleep))
        .with_state(Shelf { fleet, places })
}

async fn functions(State(shelf): State<Shelf>) -> Json<Vec<View>> {
    let places = shelf.places.lock().clone();
    Json(shelf.fleet.shown().into_iter().map(|shown| view(shown, &places)).collect())
}

async fn sleep(State(shelf): State<Shelf>, Path((namespace, name)): Path<(String, String)>) -> StatusCode {
    let known = shelf.fleet.put_to_sleep(&FunctionKey::new(namespace, name));
    if known { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND }
}

fn view(shown: Shown, places: &BTreeMap<String, String>) -> View {
    let Shown { function, instances, notes } = shown;
    let events = notes.into_iter().map(|told| EventView {
        kind: if told.note.kind == NoteKind::Warning { "Warning" } else { "Normal" }.into(),
        reason: told.note.reason.into(),
        message: told.note.message,
        time: Some(told.at),
    });
    let events = events.collect();
    let instances = instances.iter().map(|(instance, pid)| instance_view(instance, *pid)).collect();
    let mut view = View { function, instances, events, manifest: None };
    view.manifest = places.get(&format!("{}/{}", view.namespace(), view.name())).cloned();
    view
}

fn instance_view(instance: &Instance, pid: Option<u32>) -> InstanceView {
    InstanceView {
        name: instance.name.clone(),
        phase: format!("{:?}", instance.phase),
        revision: Some(instance.revision.to_string()),
        address: instance.address.map(|a| a.to_string()),
        pid,
        restarts: instance.restarts,
        trouble: instance.trouble.as_ref().map(|t| format!("{}: {}", t.code.name(), t.message)),
    }
}
