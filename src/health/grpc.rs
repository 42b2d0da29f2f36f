//! One probe by gRPC: `grpc.health.v1.Health/Check` over HTTP/2, on a connection for this one call.

use std::cell::Cell;

use ::h2::client::SendRequest;
use ::h2::{Reason, RecvStream};
use ::http::{HeaderMap, Request, Response, header};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::answer::{Fault, Stage};
use super::h2::fault;
use super::http::MOST_BODY;
use super::{grpc_message, h2};

/// `ServingStatus.SERVING`
const SERVING: u64 = 1;
/// `grpc-status` of a call that worked.
const WORKED: u32 = 0;

/// Asks over this connection, which is of no further use then. The `origin` is scheme and host.
pub(super) async fn ask(
    connection: impl AsyncRead + AsyncWrite + Unpin,
    service: &str,
    origin: &str,
    stage: &Cell<Stage>,
) -> Result<(), Fault> {
    h2::over(connection, |sender| call(sender, service, origin, stage)).await
}

async fn call(sender: SendRequest<Bytes>, service: &str, origin: &str, stage: &Cell<Stage>) -> Result<(), Fault> {
    let mut sender = sender.ready().await.map_err(fault)?;
    let (response, mut body) = sender.send_request(request(origin)?, false).map_err(fault)?;
    body.send_data(grpc_message::request(service).into(), true).map_err(fault)?;
    let response = response.await.map_err(fault)?;
    stage.set(Stage::Reading);
    let status = response.status().as_u16();
    if status != 200 {
        return Err(Fault::Status(status));
    }
    judge(response).await
}

fn request(origin: &str) -> Result<Request<()>, Fault> {
    Request::post(format!("{origin}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "evenkeel")
        .body(())
        // A host that HTTP/2 does not take; the file's reader takes no such.
        .map_err(|_| Fault::Http2(Reason::PROTOCOL_ERROR.into()))
}

async fn judge(response: Response<RecvStream>) -> Result<(), Fault> {
    let (head, mut body) = response.into_parts();
    let content_type = head.headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes());
    if !content_type.is_some_and(|value| value.starts_with(b"application/grpc")) {
        return Err(Fault::NotGrpc);
    }
    let message = message(&mut body).await?;
    // A call that failed has its status in the only head there is.
    let trailers = body.trailers().await.map_err(fault)?;
    match grpc_status(trailers.as_ref().unwrap_or(&head.headers)) {
        Some(WORKED) => {}
        Some(status) => return Err(Fault::GrpcStatus(status)),
        None => return Err(Fault::NotGrpc),
    }
    match grpc_message::serving_status(&message).map_err(Fault::GrpcMessage)? {
        SERVING => Ok(()),
        status => Err(Fault::NotServing(status)),
    }
}

/// The whole body, which is a few bytes.
async fn message(body: &mut RecvStream) -> Result<Vec<u8>, Fault> {
    let mut message = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(fault)?;
        message.extend_from_slice(&data);
        if message.len() > MOST_BODY {
            return Err(Fault::TooMuch);
        }
        // Only what was released can come again, so this error means that there is nothing left to take it back.
        let _ = body.flow_control().release_capacity(data.len());
    }
    Ok(message)
}

fn grpc_status(fields: &HeaderMap) -> Option<u32> {
    fields.get("grpc-status")?.to_str().ok()?.parse().ok()
}
