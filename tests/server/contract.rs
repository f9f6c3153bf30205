//! Every row of the contract's table: path, method, status, text and headers.

use super::client::{Client, bare, case, scorer, serving};
use triscore::server::Keys;

const X: &str = "{\"x\":[[1,2,3,4]]}";
const NOT_ALLOWED: &str = "The method is not allowed for the requested URL.";

#[test]
fn every_route_answers_as_the_contract_says() {
    let scorer = scorer(2);
    let (_server, _, addr) = serving(&scorer, |_| {});
    let mut client = Client::new(addr);
    let not_found = "The requested URL was not found on the server.";
    let long = format!("x-request-id: {}\r\n", "i".repeat(101));
    // method, path, headers, body; status, what the body contains.
    type Row<'a> = (&'a str, &'a str, &'a str, &'a str, u16, &'a str);
    let rows: &[Row] = &[
        ("GET", "/", "", "", 200, "Healthy"),
        ("HEAD", "/", "", "", 200, ""),
        ("POST", "/", "", X, 405, NOT_ALLOWED),
        ("POST", "/score", "", X, 200, "{\"y\":[["),
        ("POST", "/score?verbose=1", "", X, 200, "{\"y\":[["),
        ("POST", "/score", "content-type: text/plain\r\n", X, 200, "{\"y\":[["),
        ("POST", "/score", "", "[[1,2,3,4],[5,6,7,8]]", 200, "]]}"),
        ("GET", "/score?x=[[1,2,3,4]]", "", "", 200, "{\"y\":[["),
        ("GET", "/score?x=%5B%5B1,2,3,4%5D%5D", "", "", 200, "{\"y\":[["),
        ("GET", "/score", "", "", 400, "missing input 'x'"),
        ("OPTIONS", "/score", "", "", 200, ""),
        ("PUT", "/score", "", X, 405, NOT_ALLOWED),
        ("DELETE", "/score", "", "", 405, NOT_ALLOWED),
        ("PATCH", "/score", "", X, 405, NOT_ALLOWED),
        ("HEAD", "/score", "", "", 405, ""),
        ("POST", "/score/", "", X, 404, not_found),
        ("GET", "/elsewhere", "", "", 404, not_found),
        ("POST", "/score", "", "", 400, "POST body is empty. Expecting a JSON dictionary."),
        ("POST", "/score", "", "{\"x\":", 400, "POST body could not be decoded as JSON"),
        ("POST", "/score", "", "{\"x\":[[1,2,3]]}", 400, "x[0]: expected 4 numbers, got 3"),
        ("POST", "/score", "content-encoding: gzip\r\n", X, 415, "Content-Encoding"),
        ("POST", "/score", &long, X, 431, "x-request-id must not exceed 100 characters"),
        ("GET", "/", &long, "", 431, "x-request-id must not exceed 100 characters"),
        ("GET", "/swagger.json", "", "", 200, "\"swagger\":\"2.0\""),
        ("GET", "/swagger.json?version=3", "", "", 200, "\"openapi\":\"3.0.3\""),
        ("GET", "/swagger.json?version=3.1", "", "", 200, "\"openapi\":\"3.1.0\""),
        (
            "GET",
            "/swagger.json?version=9",
            "",
            "",
            404,
            "Swagger version [9] is not valid. Supported versions: [2, 3, 3.1].",
        ),
        ("POST", "/swagger.json", "", "", 405, NOT_ALLOWED),
        ("GET", "/v2/health/live", "", "", 200, "{\"live\":true}"),
        ("GET", "/v2/health/ready", "", "", 200, "{\"ready\":true}"),
        ("GET", "/metrics", "", "", 200, "triscore_requests_total{status=\"200\"}"),
    ];
    for (method, path, headers, body, status, contains) in rows {
        let answer = client.request(method, path, headers, body);
        let what = format!("{method} {path}: {answer:?}");
        assert_eq!(answer.status, *status, "{what}");
        assert!(answer.body.contains(contains), "{what}");
        let version = concat!("triscore/", env!("CARGO_PKG_VERSION"));
        assert_eq!(answer.header("x-ms-server-version"), Some(version), "{what}");
        if *status >= 400 && *method != "HEAD" {
            assert!(!answer.message().is_empty());
            assert_eq!(answer.header("content-type"), Some("application/json"), "{what}");
        }
        let scored = path.starts_with("/score") && *status == 200 && *method != "OPTIONS";
        assert_eq!(answer.header("x-ms-run-fn-exec-ms").is_some(), scored, "{what}");
        assert_eq!(
            answer.header("x-triscore-device"),
            scored.then_some("fault:0 fault (emulated)"),
            "{what}"
        );
        let is_options = *method == "OPTIONS";
        let says_failed = scored || *status >= 400 || is_options || path.starts_with("/swagger.json");
        assert_eq!(answer.header("x-ms-run-function-failed"), says_failed.then_some("False"), "{what}");
        let no_ids = matches!(status, 404 | 405 | 431);
        assert!(no_ids || answer.header("x-request-id").is_some_and(|id| id.len() == 36), "{what}");
        if *status == 405 {
            assert!(
                answer.header("x-request-id").is_some() == (*method == "HEAD")
                    && answer.header("allow").is_some(),
                "{what}"
            );
        }
        // The same connection serves all of them, but for refusals that leave a body unread.
        if answer.header("connection") == Some("close") || matches!(status, 415 | 431 | 404 | 405) {
            client = Client::new(addr);
        }
    }
    let health = Client::new(addr).get("/");
    assert_eq!(health.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(health.header("content-length"), Some("7"));
}

#[test]
fn ids_are_echoed() {
    let scorer = scorer(1);
    let (_server, _, addr) = serving(&scorer, |_| {});
    let headers = "x-request-id: r\r\nx-ms-client-request-id: c\r\nTraceId: t\r\n";
    for (method, path, body) in [("POST", "/score", X), ("POST", "/score", "{"), ("GET", "/", "")] {
        let answer = Client::new(addr).request(method, path, headers, body);
        let ids = ["x-request-id", "x-ms-request-id", "x-ms-client-request-id", "traceid"];
        assert_eq!(ids.map(|id| answer.header(id)), [Some("r"), Some("c"), Some("c"), Some("t")], "{path}");
    }
}

#[test]
fn answers_are_right_and_in_the_form_of_the_request() {
    let scorer = scorer(1);
    let (body, right) = case(&scorer, 3);
    let (_server, _, addr) = serving(&scorer, |o| o.model_version = Some("2".into()));
    let mut client = Client::new(addr);
    let row = body.split(':').nth(1).unwrap().trim_end_matches('}');
    for body in
        [body.clone(), format!("{{\"data\":{row}}}"), format!("{{\"input_data\":{row}}}"), row.to_owned()]
    {
        assert_eq!(client.post(&body).body, right, "{body}");
    }
    let flat = row.trim_matches(['[', ']']);
    let v2 = format!(
        "{{\"id\":\"7\",\"inputs\":[{{\"name\":\"x\",\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":[{flat}]}}]}}"
    );
    let numbers = right.trim_start_matches("{\"y\":[[").trim_end_matches("]]}");
    let expected = format!(
        "{{\"model_name\":\"digits\",\"model_version\":\"2\",\"id\":\"7\",\"outputs\":[{{\"name\":\"y\",\"shape\":[1,2],\"datatype\":\"INT64\",\"data\":[{numbers}]}}]}}"
    );
    assert_eq!(client.post(&v2).body, expected);
    assert_eq!(client.post("{\"x\":[]}").body, "{\"y\":[]}", "no rows are rows too");
}

#[test]
fn a_service_without_a_scorer_says_so() {
    let (_server, handle, addr) = bare(|_| {});
    for path in ["/", "/swagger.json", "/v2/health/ready"] {
        let answer = Client::new(addr).get(path);
        assert_eq!((answer.status, answer.message().as_str()), (503, "The service is loading."), "{path}");
    }
    assert_eq!(Client::new(addr).get("/v2/health/live").status, 200);
    assert_eq!(Client::new(addr).post(X).status, 503);
    handle.failed("the model has no input");
    let answer = Client::new(addr).get("/");
    assert_eq!((answer.status, answer.message().contains("the model has no input")), (503, true));
    assert_eq!(Client::new(addr).post(X).message(), answer.message());
}

#[test]
fn keys_guard_what_they_should() {
    let scorer = scorer(1);
    let (_server, _, addr) = serving(&scorer, |o| o.keys = Some(Keys::new("first", Some("second")).unwrap()));
    let rows = [
        ("POST", "/score", "", 401),
        ("POST", "/score", "authorization: Bearer third\r\n", 401),
        ("POST", "/score", "authorization: Bearer first\r\n", 200),
        ("POST", "/score", "authorization: Bearer second\r\n", 200),
        ("GET", "/swagger.json", "", 401),
        ("GET", "/swagger.json", "authorization: Bearer second\r\n", 200),
        ("GET", "/", "", 200),
        ("OPTIONS", "/score", "", 200),
    ];
    for (method, path, headers, status) in rows {
        let answer = Client::new(addr).request(method, path, headers, X);
        assert_eq!(answer.status, status, "{method} {path} {headers}");
        assert!(!answer.body.contains("first"));
        if status == 401 {
            assert!(answer.message().contains("Authorization: Bearer"));
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
    }
}

#[test]
fn a_prefix_origins_and_routes_of_the_embedder() {
    let scorer = scorer(1);
    let own = axum::Router::new().route("/own", axum::routing::get(async || "mine"));
    let (_server, _, addr) = serving(&scorer, |o| {
        o.path_prefix = Some("/api/v1/service/digits".into());
        o.cors_origins = vec!["https://a.example".into()];
        o.routes = Some(own);
    });
    let mut client = Client::new(addr);
    for path in ["/score", "/api/v1/service/digits/score"] {
        assert_eq!(client.request("POST", path, "", X).status, 200, "{path}");
    }
    assert_eq!(client.get("/api/v1/service/digits/swagger.json").status, 200);
    assert_eq!(client.get("/api/v1/service/digits").body, "Healthy");
    assert_eq!(client.get("/own").body, "mine");
    assert_eq!(client.get("/nobodys").status, 404);
    for (origin, allowed) in [("https://a.example", true), ("https://b.example", false)] {
        let answer = client.request("POST", "/score", &format!("origin: {origin}\r\n"), X);
        assert_eq!(answer.header("access-control-allow-origin"), allowed.then_some(origin));
        assert_eq!(answer.header("access-control-allow-methods"), allowed.then_some("GET, POST"));
    }
}
