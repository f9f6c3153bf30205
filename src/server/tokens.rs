//! Tokens: JSON Web Tokens (RFC 7519) that are signed with a service's key by HMAC-SHA256, and end by
//! themselves.
//!
//! Of the standard only what is made here is taken: this one algorithm, this one key. A token that names
//! another algorithm is refused whatever it says, and the signature is checked before anything is believed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

/// A longer text is no token of ours.
const MOST_BYTES: usize = 4096;

/// Makes a token for the callers of a service; times are in seconds since 1970.
pub(crate) fn sign(key: &str, service: &str, issued_s: u64, expires_s: u64) -> String {
    let header = json!({ "alg": "HS256", "typ": "JWT" }).to_string();
    let claims = json!({ "iss": "triscore", "aud": service, "iat": issued_s, "exp": expires_s }).to_string();
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = mac(key.as_bytes(), &signed).map(|mac| mac.finalize().into_bytes());
    // A key of any length will do for an HMAC: there is always a signature.
    format!("{signed}.{}", signature.map(|s| URL_SAFE_NO_PAD.encode(s)).unwrap_or_default())
}

/// Whether a token was signed with this key and is good at this time.
pub(super) fn is_good(key: &[u8], token: &[u8], now_s: u64) -> bool {
    checked(key, token, now_s).is_some()
}

fn checked(key: &[u8], token: &[u8], now_s: u64) -> Option<()> {
    let token = std::str::from_utf8(token).ok().filter(|t| t.len() <= MOST_BYTES)?;
    let (signed, signature) = token.rsplit_once('.')?;
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    // Compared in constant time.
    mac(key, signed)?.verify_slice(&signature).ok()?;
    let part = |text: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(text).ok()?).ok();
    let (header, claims) = signed.split_once('.')?;
    let is_ours = part(header)?.get("alg")?.as_str()? == "HS256";
    let claims = part(claims)?;
    let from = claims.get("nbf").and_then(Value::as_u64).unwrap_or(0);
    (is_ours && from <= now_s && now_s < claims.get("exp")?.as_u64()?).then_some(())
}

fn mac(key: &[u8], text: &str) -> Option<Hmac<Sha256>> {
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).ok()?;
    mac.update(text.as_bytes());
    Some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7515, appendix A.1, whose key is not text.
    #[test]
    fn the_standards_own_example() {
        let key = URL_SAFE_NO_PAD
            .decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
            .unwrap();
        let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\
                     eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
                     dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        assert!(is_good(&key, token.as_bytes(), 1_300_819_379));
        assert!(!is_good(&key, token.as_bytes(), 1_300_819_380), "it has expired");
    }

    #[test]
    fn only_what_was_signed_with_the_key_is_good() {
        let token = sign("secret", "digits", 1000, 2000);
        let parts = token.split('.').map(str::to_owned).collect::<Vec<_>>();
        let unsigned = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let forever = URL_SAFE_NO_PAD.encode(r#"{"exp":99999999999}"#);
        let resigned = |header: &str, claims: &str| {
            let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
            let signature = mac(b"secret", &signed).unwrap().finalize().into_bytes();
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
        };
        for (text, now_s, good) in [
            (token.clone(), 1500, true),
            (token.clone(), 1999, true),
            (token.clone(), 2000, false),
            (format!("{}.{}.", unsigned, parts[1]), 1500, false),
            (format!("{}.{}.{}", unsigned, parts[1], parts[2]), 1500, false),
            (format!("{}.{}.{}", parts[0], forever, parts[2]), 1500, false),
            (resigned(r#"{"alg":"none"}"#, r#"{"exp":2000}"#), 1500, false),
            (resigned(r#"{"alg":"HS256"}"#, r#"{"exp":"2000"}"#), 1500, false),
            (resigned(r#"{"alg":"HS256"}"#, "{}"), 1500, false),
            (resigned(r#"{"alg":"HS256"}"#, r#"{"exp":2000,"nbf":1600}"#), 1500, false),
            (resigned(r#"{"alg":"HS256"}"#, r#"{"exp":2000,"nbf":1600}"#), 1600, true),
            (token.trim_end_matches(|c| c != '.').to_owned(), 1500, false),
            (String::new(), 1500, false),
            ("secret".to_owned(), 1500, false),
            ("..".to_owned(), 1500, false),
            ("é.é.é".to_owned(), 1500, false),
            (format!("{}.{token}", "x".repeat(MOST_BYTES)), 1500, false),
        ] {
            assert_eq!(is_good(b"secret", text.as_bytes(), now_s), good, "{text} at {now_s}");
        }
        assert!(!is_good(b"other", token.as_bytes(), 1500));
    }
}
