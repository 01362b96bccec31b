//! Functions of a cluster, as the API server tells them.

use crate::args::WhereArgs;
use crate::exit::Failure;
use crate::view::{EventView, InstanceView, View};
use dormouse_core::function::{Function, SLEEP};
use k8s_openapi::api::core::v1::{Event, Pod, Secret};
use kube::api::{ListParams, Patch, PatchParams};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Client, Config};

/// Field manager of what the command line writes.
pub(crate) const MANAGER: &str = "dormouse-cli";
/// Most objects of one answer.
const PAGE: u32 = 500;
/// Most events shown.
const MAX_EVENTS: usize = 20;

/// The kubeconfig's cluster.
pub(crate) async fn config(args: &WhereArgs) -> Result<Config, KubeconfigError> {
    let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
    let kubeconfig = match &args.kubeconfig {
        Some(path) => Kubeconfig::read_from(path)?,
        None => match (Kubeconfig::read(), Config::incluster()) {
            // In a pod, without a kubeconfig: the pod's own rights.
            (Err(_), Ok(config)) if args.context.is_none() => return Ok(config),
            (read, _) => read?,
        },
    };
    Config::from_custom_kubeconfig(kubeconfig, &options).await
}

/// What the API server said, without the object around it.
pub(crate) fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// What a user of a kubeconfig shows as a bearer token, without what else it has: certificates, a password, somebody to
/// act as. `None`: nothing of the kind.
pub(crate) fn bearer(user: &AuthInfo) -> Option<AuthInfo> {
    let AuthInfo { token, token_file, exec, auth_provider, .. } = user.clone();
    let any = token.is_some() || token_file.is_some() || exec.is_some() || auth_provider.is_some();
    any.then(|| AuthInfo { token, token_file, exec, auth_provider, ..AuthInfo::default() })
}

/// The operator's token of the usage API.
pub(crate) async fn token(client: &Client, namespace: &str) -> Result<String, Failure> {
    let secret = Api::<Secret>::namespaced(client.clone(), namespace).get("dormouse-token").await.map_err(|e| {
        Failure::failed(format!(
            "cannot read the Secret dormouse-token in namespace {namespace}: {}; give the token with --token or DORMOUSE_TOKEN, or the namespace with --system-namespace",
            words(&e)
        ))
    })?;
    let bytes = secret.data.and_then(|mut data| data.remove("token"));
    bytes
        .and_then(|b| String::from_utf8(b.0).ok())
        .map(|t| t.trim().to_owned())
        .ok_or_else(|| Failure::failed("the Secret dormouse-token has no key `token`"))
}

/// Functions of one namespace, or of all.
pub(crate) async fn functions(client: &Client, namespace: Option<&str>) -> Result<Vec<View>, Failure> {
    let api: Api<Function> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let mut views = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page =
            api.list(&params).await.map_err(|e| Failure::failed(format!("cannot list functions: {}", words(&e))))?;
        views.extend(page.items.into_iter().map(|function| View {
            function,
            instances: Vec::new(),
            events: Vec::new(),
            manifest: None,
        }));
        match page.metadata.continue_.filter(|c| !c.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(views),
        }
    }
}

/// One function, with what rights allow to see of its pods and events.
pub(crate) async fn function(client: &Client, namespace: &str, name: &str) -> Result<Option<View>, Failure> {
    let api = Api::<Function>::namespaced(client.clone(), namespace);
    let found =
        api.get_opt(name).await.map_err(|e| Failure::failed(format!("cannot read the function: {}", words(&e))))?;
    let Some(function) = found else { return Ok(None) };
    let uid = function.metadata.uid.clone().unwrap_or_default();
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let ours = ListParams::default().labels(&format!("dormouse.dev/function-uid={uid}")).limit(PAGE);
    let mut instances: Vec<InstanceView> =
        pods.list(&ours).await.map(|l| l.items.iter().map(instance).collect()).unwrap_or_default();
    instances.sort_by(|a, b| a.name.cmp(&b.name));
    let events = Api::<Event>::namespaced(client.clone(), namespace);
    let about = ListParams::default().fields(&format!("involvedObject.uid={uid}")).limit(PAGE);
    let mut events: Vec<EventView> =
        events.list(&about).await.map(|l| l.items.into_iter().map(event).collect()).unwrap_or_default();
    events.sort_by_key(|e| e.time);
    let surplus = events.len().saturating_sub(MAX_EVENTS);
    events.drain(..surplus);
    Ok(Some(View { function, instances, events, manifest: None }))
}

/// Puts a function to sleep.
pub(crate) async fn put_to_sleep(client: &Client, namespace: &str, name: &str) -> Result<(), Failure> {
    let now = jiff::Timestamp::now().to_string();
    let body = Patch::Merge(serde_json::json!({"metadata": {"annotations": {SLEEP: now}}}));
    let api = Api::<Function>::namespaced(client.clone(), namespace);
    let patched = api.patch(name, &PatchParams::default(), &body).await;
    patched.map(drop).map_err(|e| Failure::failed(format!("cannot put it to sleep: {}", words(&e))))
}

fn instance(pod: &Pod) -> InstanceView {
    let status = pod.status.as_ref();
    let container = super::details::container(pod);
    let waiting = container.and_then(|c| c.state.as_ref()).and_then(|s| s.waiting.as_ref());
    let trouble = waiting.and_then(|w| w.reason.as_ref().map(|r| (r, w.message.as_deref().unwrap_or_default())));
    let ending = pod.metadata.deletion_timestamp.is_some();
    let phase = status.and_then(|s| s.phase.clone()).unwrap_or_else(|| "Unknown".into());
    InstanceView {
        name: pod.metadata.name.clone().unwrap_or_default(),
        phase: if ending { "Ending".into() } else { phase },
        revision: pod.metadata.labels.as_ref().and_then(|l| l.get("dormouse.dev/revision").cloned()),
        address: status.and_then(|s| s.pod_ip.clone()),
        pid: None,
        restarts: container.and_then(|c| u32::try_from(c.restart_count).ok()).unwrap_or(0),
        trouble: trouble.map(|(reason, message)| match message {
            "" => reason.clone(),
            message => format!("{reason}: {message}"),
        }),
    }
}

fn event(event: Event) -> EventView {
    let series = event.series.and_then(|s| s.last_observed_time).map(|t| t.0);
    let time = series.or(event.last_timestamp.map(|t| t.0)).or(event.event_time.map(|t| t.0));
    EventView {
        kind: event.type_.unwrap_or_default(),
        reason: event.reason.unwrap_or_default(),
        message: event.message.unwrap_or_default(),
        time,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_a_bearer_token_is_shown_elsewhere() {
        let mut user = AuthInfo {
            username: Some("alice".into()),
            client_certificate: Some("alice.crt".into()),
            impersonate: Some("root".into()),
            ..AuthInfo::default()
        };
        assert!(bearer(&user).is_none());
        user.token_file = Some("/token".into());
        let shown = bearer(&user).unwrap();
        assert_eq!(shown.token_file.as_deref(), Some("/token"));
        assert_eq!((shown.username, shown.client_certificate, shown.impersonate), (None, None, None));
    }
}
