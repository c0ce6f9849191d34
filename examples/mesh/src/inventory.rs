//! Reserves and picks items, over gRPC.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::{Stream, stream};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use trace_core::Context;
use trace_tonic::ServerTraceLayer;

use self::proto::inventory_server::{Inventory, InventoryServer};
use self::proto::{PickRequest, PickStep, PutBackRequest, Reservation, ReserveRequest};
use crate::service::Service;

/// What `proto/inventory.proto` says.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub(crate) mod proto {
    tonic::include_proto!("mesh");

    pub(crate) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/inventory.bin"));
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    service: Service,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    args.service
        .run("inventory", |listener, stopped| async move {
            let tracing = ServerTraceLayer::new().file_descriptor_set(proto::DESCRIPTORS)?;
            Server::builder()
                .layer(tracing)
                .add_service(InventoryServer::new(Warehouse::stocked()))
                .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), async {
                    let _ = stopped.await;
                })
                .await?;
            Ok(())
        })
        .await
}

#[derive(Debug)]
struct Warehouse {
    shelves: Mutex<HashMap<&'static str, Shelf>>,
}

#[derive(Clone, Copy, Debug)]
struct Shelf {
    name: &'static str,
    left: u32,
}

impl Warehouse {
    fn stocked() -> Self {
        let shelves = [
            ("teapot", Shelf { name: "B-17", left: 1_000_000 }),
            ("kettle", Shelf { name: "B-18", left: 1_000_000 }),
            ("samovar", Shelf { name: "C-02", left: 1 }),
        ];
        Self { shelves: Mutex::new(shelves.into()) }
    }

    /// The item's shelf after the change.
    fn change(
        &self,
        sku: &str,
        change: impl FnOnce(&mut Shelf) -> Result<(), Status>,
    ) -> Result<Shelf, Status> {
        let mut shelves = self.shelves.lock().unwrap_or_else(PoisonError::into_inner);
        let shelf =
            shelves.get_mut(sku).ok_or_else(|| Status::not_found("there is no shelf for this item"))?;
        change(shelf)?;
        Ok(*shelf)
    }
}

impl From<Shelf> for Reservation {
    fn from(shelf: Shelf) -> Self {
        Self { shelf: shelf.name.to_owned(), left: shelf.left }
    }
}

/// The steps of picking, and how long each takes.
const STEPS: [(&str, Duration); 3] = [
    ("located", Duration::from_millis(3)),
    ("picked", Duration::from_millis(5)),
    ("packed", Duration::from_millis(4)),
];

#[tonic::async_trait]
impl Inventory for Warehouse {
    async fn reserve(&self, request: Request<ReserveRequest>) -> Result<Response<Reservation>, Status> {
        let ReserveRequest { sku, quantity } = request.into_inner();
        let shelf = self.change(&sku, |shelf| {
            let left = shelf.left.checked_sub(quantity);
            shelf.left =
                left.ok_or_else(|| Status::failed_precondition(format!("only {} left", shelf.left)))?;
            Ok(())
        })?;
        Context::current().span().add_event(
            "shelf.chosen",
            &[("shelf".into(), shelf.name.into()), ("left".into(), shelf.left.into())],
        );
        Ok(Response::new(shelf.into()))
    }

    async fn put_back(&self, request: Request<PutBackRequest>) -> Result<Response<Reservation>, Status> {
        let PutBackRequest { sku, quantity } = request.into_inner();
        let shelf = self.change(&sku, |shelf| {
            shelf.left = shelf.left.saturating_add(quantity);
            Ok(())
        })?;
        Ok(Response::new(shelf.into()))
    }

    type PickStream = Pin<Box<dyn Stream<Item = Result<PickStep, Status>> + Send>>;

    async fn pick(&self, request: Request<PickRequest>) -> Result<Response<Self::PickStream>, Status> {
        let PickRequest { shelf, quantity } = request.into_inner();
        let span = Context::current();
        span.span().set_attribute("shelf", &shelf);
        span.span().set_attribute("quantity", quantity);
        let steps = stream::unfold(STEPS.iter(), |mut steps| async move {
            let (name, takes) = steps.next()?;
            tokio::time::sleep(*takes).await;
            // The stream is polled in the context of its call, long after the handler has returned.
            Context::current().span().add_event(name, &[]);
            Some((Ok(PickStep { name: (*name).to_owned() }), steps))
        });
        Ok(Response::new(Box::pin(steps)))
    }
}
