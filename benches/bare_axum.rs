//! The least that serves a model over HTTP: axum, `ort`, nothing else. What the server is measured against.
//!
//! No header but the content type, no queue, no deadline, no check of a row's length; each of two I/O threads
//! has a session of its own and scores inline. `scripts/bench-server.py` runs it beside `triscore serve`.
//!
//! `cargo run --release --example bare_axum MODEL PORT`

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a yardstick may stop where it cannot measure"
)]

use std::cell::RefCell;
use std::sync::OnceLock;

use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::TensorRef;
use serde::Deserialize;
use serde::de::{SeqAccess, Visitor};
use triscore::cpu::CpuBackend;
use triscore::{Backend, Dim, Model};

/// One model, known to every thread; each makes its own session from it.
static MODEL: OnceLock<Model> = OnceLock::new();

thread_local! {
    static SESSION: RefCell<Session> = RefCell::new({
        let environment = CpuBackend::new().environment().unwrap();
        Session::builder(&environment)
            .unwrap()
            .with_optimization_level(GraphOptimizationLevel::All)
            .unwrap()
            .with_intra_threads(1)
            .unwrap()
            .with_intra_op_spinning(false)
            .unwrap()
            .commit_from_memory(MODEL.get().unwrap().bytes())
            .unwrap()
    });
}

fn main() {
    let args = std::env::args().collect::<Vec<_>>();
    CpuBackend::new().probe().expect("ONNX Runtime");
    MODEL.set(Model::open(&args[1]).unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let app = Router::new().route("/", get(|| async { "Healthy" })).route("/score", post(score));
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", args[2].parse().unwrap())).await.unwrap();
        axum::serve(axum::serve::ListenerExt::tap_io(listener, |s| s.set_nodelay(true).unwrap()), app)
            .await
            .unwrap();
    });
}

async fn score(body: Bytes) -> impl IntoResponse {
    let x = serde_json::from_slice::<Request>(&body).unwrap().x.0;
    let dims = MODEL.get().unwrap().signature().inputs()[0].dims().unwrap();
    let row = dims.iter().map(|d| if let Dim::Fixed(n) = d { *n } else { 1 }).product::<usize>();
    let shape =
        dims.iter().map(|d| if let Dim::Fixed(n) = d { *n } else { x.len() / row }).collect::<Vec<_>>();
    let answer = SESSION.with_borrow_mut(|session| {
        let view = TensorRef::from_array_view((shape, x.as_slice())).unwrap();
        let outputs = session.run(ort::inputs![view]).unwrap();
        let (_, logits) = outputs[0].try_extract_tensor::<f32>().unwrap();
        let rows = logits.chunks(10).collect::<Vec<_>>();
        serde_json::to_vec(&serde_json::json!({ "logits": rows })).unwrap()
    });
    ([(CONTENT_TYPE, "application/json")], answer)
}

#[derive(Deserialize)]
struct Request {
    x: Flat,
}

/// Numbers of an array nested to any depth, one after another.
struct Flat(Vec<f32>);

impl<'de> Deserialize<'de> for Flat {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut flat = Vec::new();
        serde::de::DeserializeSeed::deserialize(Level(&mut flat), from)?;
        Ok(Self(flat))
    }
}

struct Level<'a>(&'a mut Vec<f32>);

impl<'de> serde::de::DeserializeSeed<'de> for Level<'_> {
    type Value = ();
    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = ();
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("numbers")
    }
    fn visit_f64<E>(self, v: f64) -> Result<(), E> {
        self.0.push(v as f32);
        Ok(())
    }
    fn visit_u64<E>(self, v: u64) -> Result<(), E> {
        self.0.push(v as f32);
        Ok(())
    }
    fn visit_i64<E>(self, v: i64) -> Result<(), E> {
        self.0.push(v as f32);
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Level(self.0))?.is_some() {}
        Ok(())
    }
}
