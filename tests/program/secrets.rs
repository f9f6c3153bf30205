//! Keys that change, and tokens, while a service runs.

use super::home::{Home, models};
use super::http::{digit, digit_of, request};

fn status(port: u16, credential: &str) -> u16 {
    let header = format!("Authorization: Bearer {credential}\r\n");
    request(port, "POST", "/score", &header, &digit().0).unwrap().status
}

fn keys(home: &Home, name: &str) -> [String; 2] {
    let keys = home.json(&["service", "get-keys", "-n", name]);
    ["primaryKey", "secondaryKey"].map(|key| keys[key].as_str().unwrap().to_owned())
}

#[test]
fn a_key_changes_without_a_restart() {
    let home = Home::with_digits();
    let deployed = home.deploy("keyed", &models("digits_cnn/deploymentconfig.aci.json"));
    assert_eq!(deployed.code, 0, "{deployed:#?}");
    let (port, host) = (home.port("keyed"), home.host("keyed"));
    let [first, second] = keys(&home, "keyed");
    for _ in 0..3 {
        let [old, _] = keys(&home, "keyed");
        home.ok(&["service", "regen-key", "-n", "keyed", "-k", "pRiMaRy"]);
        // The command is back: from now on, and not some time later.
        assert_eq!(status(port, &old), 401);
        assert_eq!(status(port, &keys(&home, "keyed")[0]), 200);
    }
    assert_ne!(keys(&home, "keyed")[0], first);
    assert_eq!((status(port, &second), &keys(&home, "keyed")[1]), (200, &second));
    let own = "own-secret-0123456789abcdef";
    home.ok(&["service", "regen-key", "-n", "keyed", "-k", "Secondary", "-s", own]);
    assert_eq!((status(port, own), status(port, &second)), (200, 401));
    assert_eq!(home.host("keyed"), host);
    for (args, code, words) in [
        (&["-k", "third"][..], 65, &["Primary", "Secondary"][..]),
        (&["-k", "Primary", "-s", "a b"], 65, &["visible ASCII"]),
        (&[], 2, &["--key"]),
    ] {
        home.fails(&[&["service", "regen-key", "-n", "keyed"], args].concat(), code, words);
    }
    home.fails(&["service", "get-access-token", "-n", "keyed"], 65, &["tokenAuthEnabled", "update"]);
    assert!(!home.ok(&["service", "get-logs", "-n", "keyed"]).out.contains(own));

    // One that is stopped has its new keys when it starts; an update keeps them.
    home.ok(&["service", "stop", "-n", "keyed"]);
    home.ok(&["service", "regen-key", "-n", "keyed", "-k", "Primary"]);
    home.ok(&["service", "start", "-n", "keyed"]);
    assert_eq!(status(port, &keys(&home, "keyed")[0]), 200);
    home.ok(&["service", "update", "-n", "keyed", "--cc", "1"]);
    assert_eq!((status(port, &keys(&home, "keyed")[0]), status(port, own)), (200, 200));
    home.ok(&["service", "update", "-n", "keyed", "--kp", "given-0123456789", "--ks", "given-9876543210"]);
    assert_eq!(keys(&home, "keyed"), ["given-0123456789", "given-9876543210"]);
    assert_eq!((status(port, "given-0123456789"), status(port, own)), (200, 401));
}

#[test]
fn tokens_open_a_service_that_asks_for_them() {
    let home = Home::with_digits();
    let config = home.file("token.json", r#"{"computeType": "aks", "tokenAuthEnabled": true}"#);
    assert_eq!(home.deploy("tokens", &config).code, 0);
    let port = home.port("tokens");
    let token = home.json(&["service", "get-access-token", "-n", "tokens"]);
    let text = token["accessToken"].as_str().unwrap();
    assert_eq!(token["tokenType"], "Bearer");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (refresh, expiry) = (token["refreshAfter"].as_u64().unwrap(), token["expiryOn"].as_u64().unwrap());
    assert!(now < refresh && refresh < expiry && expiry <= now + 12 * 3600 + 5, "{token}");
    assert_eq!(home.ok(&["service", "get-access-token", "-n", "tokens"]).out.matches('.').count(), 2);
    assert_eq!(status(port, text), 200);
    let mut forged = text.to_owned();
    forged.replace_range(..1, "f");
    for wrong in [&forged, &text[..text.len() - 2], &keys(&home, "tokens")[0], "", "a.b.c"] {
        assert_eq!(status(port, wrong), 401, "{wrong}");
    }
    let at = format!("@{}", models("digits_cnn/request.json"));
    assert_eq!(digit_of(&home.json(&["service", "run", "-n", "tokens", "-d", &at])), digit().1);

    // A new key ends the old one's tokens.
    home.ok(&["service", "regen-key", "-n", "tokens", "-k", "Primary"]);
    assert_eq!(status(port, text), 401);
    let token = home.json(&["service", "get-access-token", "-n", "tokens"]);
    assert_eq!(status(port, token["accessToken"].as_str().unwrap()), 200);

    // From tokens to keys and back.
    home.ok(&["service", "update", "-n", "tokens", "--token-auth-enabled", "false", "--ae", "true"]);
    assert_eq!(status(port, &keys(&home, "tokens")[1]), 200);
    let update = ["service", "update", "-n", "tokens", "--token-auth-enabled", "true"];
    home.fails(&update, 78, &["--token-auth-enabled", "not both"]);
    home.ok(&[&update[..], &["--ae", "false"]].concat());
    assert_eq!(status(port, &keys(&home, "tokens")[0]), 401);
}
