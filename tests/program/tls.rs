//! A service that speaks TLS, from its deployment file to its callers.

use serde_json::json;

use super::home::{Home, models};
use super::http;

const CERTIFICATE: &str = include_str!("../../src/service/tls/one.pem");
const KEY: &str = include_str!("../../src/service/tls/one.key.pem");

#[test]
fn a_service_with_a_certificate_speaks_tls_and_nothing_else() {
    let home = Home::with_digits();
    let config = json!({
        "computeType": "aci", "authEnabled": true, "sslEnabled": true, "cname": "digits.example",
        "sslCertificate": home.file("cert.pem", CERTIFICATE), "sslKey": home.file("key.pem", KEY),
    });
    let config = home.file("dc.json", config.to_string());
    home.ok(&["model", "deploy", "-n", "digits", "-m", "digits", "--dc", &config]);
    let shown = home.show("digits");
    assert!(shown["scoringUri"].as_str().unwrap().starts_with("https://localhost:"), "{shown:#}");
    assert_eq!(shown["properties"]["hasHttps"], "True");
    // What was given is not needed again.
    std::fs::remove_file(home.path("cert.pem")).unwrap();
    std::fs::remove_file(home.path("key.pem")).unwrap();
    let request = format!("@{}", models("digits_cnn/request.json"));
    home.ok(&["service", "run", "-n", "digits", "-d", &request]);
    // Somebody who speaks plain HTTP is not understood, and holds nobody up.
    let plain = http::request(home.port("digits"), "GET", "/", "", b"");
    assert!(plain.is_err() || plain.is_ok_and(|reply| reply.status != 200));
    home.ok(&["service", "update", "-n", "digits", "-m", "digits:1"]);
    home.ok(&["service", "run", "-n", "digits", "-d", &request]);
    let again = home.json(&["service", "show", "-n", "digits"]);
    assert_eq!(again["state"], "Healthy", "{again:#}");
}

#[test]
fn serve_speaks_tls_too() {
    let home = Home::new();
    let config = json!({
        "computeType": "aci", "sslEnabled": true, "cname": "x",
        "sslCertificate": home.file("cert.pem", CERTIFICATE), "sslKey": home.file("key.pem", CERTIFICATE),
    });
    let config = home.file("dc.json", config.to_string());
    let model = models("digits_cnn/model.onnx");
    home.run(&["serve", &model, "--dc", &config, "--port", "0"]).failed(78, &["sslKey: expected"]);
}
