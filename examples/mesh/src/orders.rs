//! Keeps the orders, and sees each one through: price, stock, payment, picking, carrier.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use reqwest_middleware::ClientWithMiddleware;
use reqwest_retry::RetryTransientMiddleware;
use reqwest_retry::policies::ExponentialBackoff;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::{Row, SqlitePool};
use tonic::transport::Endpoint;
use trace_axum::TraceLayer;
use trace_core::{Context, Scope, db, span};
use trace_reqwest::UrlTemplate;

use crate::inventory::proto::inventory_client::InventoryClient;
use crate::inventory::proto::{PickRequest, PutBackRequest, ReserveRequest};
use crate::payments::Charge;
use crate::service::Service;

static SCOPE: Scope = Scope::new("mesh.orders", env!("CARGO_PKG_VERSION"));

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    service: Service,
    /// Where the inventory service is.
    #[arg(long, env = "INVENTORY_URL")]
    inventory: String,
    /// Where the payments service is.
    #[arg(long, env = "PAYMENTS_URL")]
    payments: String,
    /// The SQLite database.
    #[arg(long, env = "DATABASE_URL", default_value = "sqlite::memory:")]
    database: String,
}

/// What the gateway sends.
#[derive(Debug, Deserialize)]
struct NewOrder {
    sku: String,
    quantity: u32,
    /// How many times payments shall fail before it works.
    #[serde(default)]
    payment_failures: u32,
}

#[derive(Debug, Serialize)]
struct Order {
    id: i64,
    sku: String,
    quantity: u32,
    total_cents: i64,
    status: String,
}

#[derive(Clone, Debug)]
struct Shop {
    database: SqlitePool,
    inventory: InventoryClient<trace_tonic::ClientTrace<tonic::transport::Channel>>,
    payments: String,
    client: ClientWithMiddleware,
}

/// Why an order is refused.
#[derive(Debug)]
enum Refusal {
    Unknown,
    OutOfStock,
    NotPaid(StatusCode),
    Unreachable(&'static str),
    Database,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    args.service
        .run("orders", |listener, stopped| async move {
            let shop = Shop::open(&args.database, args.inventory, args.payments).await?;
            let app = Router::new()
                .route("/orders", post(place))
                .route("/orders/{id}", get(look))
                .with_state(shop)
                .route("/healthz", get(|| async { "ok" }))
                .layer(TraceLayer::new().ignore_paths(["/healthz"]));
            axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>())
                .with_graceful_shutdown(async {
                    let _ = stopped.await;
                })
                .await?;
            Ok(())
        })
        .await
}

async fn place(
    State(shop): State<Shop>,
    Json(order): Json<NewOrder>,
) -> Result<(StatusCode, Json<Order>), Refusal> {
    let price_cents = shop.price_cents(&order.sku).await?.ok_or(Refusal::Unknown)?;
    let total_cents = price_cents * i64::from(order.quantity);
    let id = shop.insert(&order, total_cents).await?;
    Context::current().span().set_attribute("order.id", id);
    let outcome = shop.see_through(id, &order, total_cents).await;
    let status = if outcome.is_ok() { "shipped" } else { "refused" };
    shop.update(id, status).await?;
    outcome?;
    let NewOrder { sku, quantity, .. } = order;
    Ok((StatusCode::CREATED, Json(Order { id, sku, quantity, total_cents, status: status.to_owned() })))
}

async fn look(State(shop): State<Shop>, Path(id): Path<i64>) -> Result<Json<Order>, Refusal> {
    shop.select(id).await?.map(Json).ok_or(Refusal::Unknown)
}

impl Shop {
    async fn open(database: &str, inventory: String, payments: String) -> anyhow::Result<Self> {
        // A database in memory lives as long as its only connection.
        let database = SqlitePoolOptions::new()
            .min_connections(1)
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect(database)
            .await
            .with_context(|| format!("orders cannot open {database}"))?;
        for statement in SCHEMA {
            sqlx::query(statement).execute(&database).await?;
        }
        let endpoint = Endpoint::from_shared(inventory)?;
        let inventory = InventoryClient::new(trace_tonic::channel(&endpoint));
        let twice = ExponentialBackoff::builder()
            .retry_bounds(Duration::from_millis(5), Duration::from_millis(50))
            .build_with_max_retries(2);
        let client = trace_reqwest::builder(reqwest::Client::builder())
            .with(RetryTransientMiddleware::new_with_policy(twice))
            .build()?;
        Ok(Self { database, inventory, payments, client })
    }

    async fn see_through(&self, id: i64, order: &NewOrder, total_cents: i64) -> Result<(), Refusal> {
        let shelf = self.reserve(order).await?;

        // Payment and picking do not wait for each other.
        let payment = span("take payment").scope(&SCOPE).attribute("amount.cents", total_cents);
        let picking = span("pick items").scope(&SCOPE).attribute("shelf", &shelf);
        let both = [payment.span_context(), picking.span_context()];
        let (paid, picked) = tokio::join!(
            payment.try_run(self.charge(id, total_cents, order.payment_failures)),
            picking.try_run(self.pick(shelf, order.quantity)),
        );
        if let Err(refusal) = paid.and(picked) {
            self.put_back(order).await?;
            return Err(refusal);
        }

        // The carrier comes when both are done: it has one parent, and links to what it waited for.
        let mut carrier = span("hand to carrier").scope(&SCOPE).attribute("carrier", "Mercury");
        for waited_for in both.into_iter().flatten() {
            carrier.add_link(waited_for, &[("reason".into(), "waited for".into())]);
        }
        carrier.run(tokio::time::sleep(Duration::from_millis(1))).await;
        Ok(())
    }

    async fn price_cents(&self, sku: &str) -> Result<Option<i64>, Refusal> {
        const SQL: &str = "SELECT price_cents FROM products WHERE sku = ?";
        let row =
            queried("SELECT", "products", SQL, sqlx::query(SQL).bind(sku).fetch_optional(&self.database));
        Ok(row.await?.map(|row| row.get(0)))
    }

    async fn insert(&self, order: &NewOrder, total_cents: i64) -> Result<i64, Refusal> {
        const SQL: &str =
            "INSERT INTO orders (sku, quantity, total_cents, status) VALUES (?, ?, ?, 'new') RETURNING id";
        let query = sqlx::query(SQL).bind(&order.sku).bind(order.quantity).bind(total_cents);
        Ok(queried("INSERT", "orders", SQL, query.fetch_one(&self.database)).await?.get(0))
    }

    async fn update(&self, id: i64, status: &str) -> Result<(), Refusal> {
        const SQL: &str = "UPDATE orders SET status = ? WHERE id = ?";
        queried("UPDATE", "orders", SQL, sqlx::query(SQL).bind(status).bind(id).execute(&self.database))
            .await?;
        Ok(())
    }

    async fn select(&self, id: i64) -> Result<Option<Order>, Refusal> {
        const SQL: &str = "SELECT id, sku, quantity, total_cents, status FROM orders WHERE id = ?";
        let row = queried("SELECT", "orders", SQL, sqlx::query(SQL).bind(id).fetch_optional(&self.database))
            .await?;
        Ok(row.map(|row| Order {
            id: row.get(0),
            sku: row.get(1),
            quantity: row.get(2),
            total_cents: row.get(3),
            status: row.get(4),
        }))
    }

    /// The shelf on which the items now wait.
    async fn reserve(&self, order: &NewOrder) -> Result<String, Refusal> {
        let request = ReserveRequest { sku: order.sku.clone(), quantity: order.quantity };
        match self.inventory.clone().reserve(request).await {
            Ok(reservation) => Ok(reservation.into_inner().shelf),
            Err(status) => Err(match status.code() {
                tonic::Code::NotFound | tonic::Code::FailedPrecondition => Refusal::OutOfStock,
                _ => Refusal::Unreachable("inventory"),
            }),
        }
    }

    async fn put_back(&self, order: &NewOrder) -> Result<(), Refusal> {
        let request = PutBackRequest { sku: order.sku.clone(), quantity: order.quantity };
        self.inventory.clone().put_back(request).await.map_err(|_| Refusal::Unreachable("inventory"))?;
        Ok(())
    }

    async fn pick(&self, shelf: String, quantity: u32) -> Result<(), Refusal> {
        let unreachable = |_| Refusal::Unreachable("inventory");
        let request = PickRequest { shelf, quantity };
        let mut steps = self.inventory.clone().pick(request).await.map_err(unreachable)?.into_inner();
        while let Some(step) = steps.message().await.map_err(unreachable)? {
            Context::current().span().add_event(&step.name, &[]);
        }
        Ok(())
    }

    async fn charge(&self, order: i64, amount_cents: i64, failures: u32) -> Result<(), Refusal> {
        let charge = Charge { order, amount_cents, failures };
        let url = format!("{}/charges", self.payments);
        let request = self.client.post(url).with_extension(UrlTemplate("/charges")).json(&charge);
        let answer = request.send().await.map_err(|_| Refusal::Unreachable("payments"))?;
        if answer.status().is_success() { Ok(()) } else { Err(Refusal::NotPaid(answer.status())) }
    }
}

const SCHEMA: [&str; 3] = [
    "CREATE TABLE IF NOT EXISTS products (sku TEXT PRIMARY KEY, price_cents INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY AUTOINCREMENT, sku TEXT NOT NULL, \
     quantity INTEGER NOT NULL, total_cents INTEGER NOT NULL, status TEXT NOT NULL)",
    "INSERT OR IGNORE INTO products (sku, price_cents) VALUES ('teapot', 2499), ('kettle', 4999), ('samovar', 89900)",
];

/// Runs a query inside its span.
async fn queried<T>(
    operation: &str,
    collection: &str,
    sql: &str,
    query: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, Refusal> {
    let run = async {
        query.await.inspect_err(|error| {
            if let Some(code) = error.as_database_error().and_then(|error| error.code()) {
                db::record_error_code(&Context::current().span(), &code);
            }
        })
    };
    let span = db::query("sqlite").namespace("main").operation(operation).collection(collection).text(sql);
    span.scope(&SCOPE).try_run(run).await.map_err(|error| {
        eprintln!("orders: {error}");
        Refusal::Database
    })
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, what) = match self {
            Self::Unknown => (StatusCode::NOT_FOUND, "there is no such thing".to_owned()),
            Self::OutOfStock => (StatusCode::CONFLICT, "out of stock".to_owned()),
            Self::NotPaid(StatusCode::PAYMENT_REQUIRED) => {
                (StatusCode::PAYMENT_REQUIRED, "the card was declined".to_owned())
            }
            Self::NotPaid(status) => (StatusCode::BAD_GATEWAY, format!("payments answered {status}")),
            Self::Unreachable(service) => (StatusCode::BAD_GATEWAY, format!("{service} cannot be reached")),
            Self::Database => (StatusCode::INTERNAL_SERVER_ERROR, "the database failed".to_owned()),
        };
        (status, Json(json!({ "error": what }))).into_response()
    }
}
