//! `Ledger.Append` over gRPC. Who may call it is checked by an interceptor in front.

use super::{AppendError, AppendOutcome, Appended, Frame, LedgerDoor};
use crate::doors::MAX_NAME;
use crate::shares::Process;
use dormouse_proto::v1;
use dormouse_proto::v1::ledger_server::{Ledger, LedgerServer};
use tonic::{Request, Response, Status};

/// Longest frame on the wire.
pub(super) const MAX_FRAME_BYTES: usize = 4 * 1024 * 1024;

/// Answers `Ledger.Append` from the ledger behind a door.
#[derive(Debug)]
pub struct LedgerService {
    door: LedgerDoor,
}

/// The gRPC service of a ledger that may be closed: then it answers UNAVAILABLE and activators keep their records.
#[must_use]
pub fn service(door: LedgerDoor) -> LedgerServer<LedgerService> {
    LedgerServer::new(LedgerService { door }).max_decoding_message_size(MAX_FRAME_BYTES)
}

#[tonic::async_trait]
impl Ledger for LedgerService {
    async fn tell(&self, request: Request<v1::Progress>) -> Result<Response<v1::ProgressNoted>, Status> {
        let v1::Progress { activator, epoch, name, complete_through_us, over } = request.into_inner();
        if !(1..=MAX_NAME).contains(&name.len()) {
            return Err(Status::invalid_argument("an activator has a name of 1 to 253 bytes"));
        }
        let process = Process { name: name.into(), activator, epoch };
        self.door.through().say(&process, complete_through_us, over);
        Ok(Response::new(v1::ProgressNoted {}))
    }

    async fn append(&self, request: Request<v1::Frame>) -> Result<Response<v1::Appended>, Status> {
        let result = self.take(request.into_inner()).await;
        self.door.counts().frame(result.as_ref().map(|appended| appended.outcome));
        let appended = result.map_err(|e| match e {
            AppendError::BadFrame(_) => Status::invalid_argument(e.to_string()),
            AppendError::Closed(_) => Status::unavailable(e.to_string()),
        })?;
        let outcome = match appended.outcome {
            AppendOutcome::Applied => v1::appended::Outcome::Applied,
            AppendOutcome::Duplicate => v1::appended::Outcome::Duplicate,
            AppendOutcome::Gap => v1::appended::Outcome::Gap,
        };
        Ok(Response::new(v1::Appended { watermark: appended.watermark, outcome: outcome.into() }))
    }
}

impl LedgerService {
    async fn take(&self, frame: v1::Frame) -> Result<Appended, AppendError> {
        let frame = Frame::try_from(frame).map_err(|e| AppendError::BadFrame(e.to_string()))?;
        let ledger = self.door.ledger().map_err(AppendError::Closed)?;
        ledger.append(frame).await
    }
}
