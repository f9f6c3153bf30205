//! The description of the service, made from the model's signature: OpenAPI 2.0, 3.0.3 and 3.1.0.

use axum::body::Bytes;
use serde_json::{Map, Value, json};

use super::application::SwaggerVersion;
use crate::signature::{Dim, Port, PortKind, Signature};
use crate::tensor::DType;

/// Examples beyond this many elements would be longer than what they show.
const EXAMPLE_ELEMENTS: usize = 64;

/// The three documents, written once.
#[derive(Debug)]
pub(super) struct Swagger {
    v2: Bytes,
    v3: Bytes,
    v31: Bytes,
}

impl Swagger {
    pub(super) fn new(signature: &Signature, title: &str, version: &str) -> Self {
        let doc = |kind| Bytes::from(document(signature, title, version, kind).to_string());
        Self { v2: doc(Kind::V2), v3: doc(Kind::V3), v31: doc(Kind::V31) }
    }

    /// The document in that version.
    pub(super) fn of(&self, version: SwaggerVersion) -> Bytes {
        match version {
            SwaggerVersion::V2 => self.v2.clone(),
            SwaggerVersion::V3 => self.v3.clone(),
            SwaggerVersion::V31 => self.v31.clone(),
        }
    }
}

/// The document that `?version=…` asks for, out of those that there are; the message of the 404 when there
/// is none.
pub(super) fn pick(
    query: Option<&str>,
    document: impl Fn(SwaggerVersion) -> Option<Bytes>,
) -> Result<Bytes, String> {
    use SwaggerVersion::{V2, V3, V31};
    let asked = query.unwrap_or_default().split('&').find_map(|p| p.strip_prefix("version="));
    let version = match asked {
        None | Some("2" | "2.0") => Some(V2),
        Some("3" | "3.0") => Some(V3),
        Some("3.1") => Some(V31),
        Some(_) => None,
    };
    if let Some(document) = version.and_then(&document) {
        return Ok(document);
    }
    let known = [(V2, "2"), (V3, "3"), (V31, "3.1")];
    let supported = known.iter().filter(|(v, _)| document(*v).is_some()).map(|(_, name)| *name);
    let supported = supported.collect::<Vec<_>>().join(", ");
    let asked = asked.unwrap_or("2").chars().take(16).collect::<String>();
    Err(match version {
        Some(_) => format!(
            "Swagger version [{asked}] is not supported for the scoring script. Supported swagger versions: [{supported}]."
        ),
        None => format!("Swagger version [{asked}] is not valid. Supported versions: [{supported}]."),
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    V2,
    V3,
    V31,
}

fn document(signature: &Signature, title: &str, version: &str, kind: Kind) -> Value {
    let definitions = json!({
        "ServiceInput": object(signature.inputs(), kind, true),
        "ServiceOutput": object(signature.outputs(), kind, false),
        "ErrorResponse": {
            "type": "object",
            "properties": {"message": {"type": "string"}},
            "example": {"message": "x[3]: expected 8 numbers, got 7"},
        },
    });
    let description = format!("API specification for the Azure Machine Learning service {title}");
    let info = json!({"title": title, "description": description, "version": version});
    let refer = |name: &str| match kind {
        Kind::V2 => json!({"$ref": format!("#/definitions/{name}")}),
        _ => json!({"$ref": format!("#/components/schemas/{name}")}),
    };
    let answer = |what: &str, media: &str, schema: Value| match kind {
        Kind::V2 => json!({"description": what, "schema": schema}),
        _ => json!({"description": what, "content": {media: {"schema": schema}}}),
    };
    let (json_type, text) = ("application/json", json!({"type": "string"}));
    let error = || answer("The request was refused or failed.", json_type, refer("ErrorResponse"));
    let operation = |id: &str, what: &str, media: &str, ok: Value| {
        let mut op = json!({
            "operationId": id,
            "description": what,
            "responses": {"200": ok, "default": error()},
        });
        if kind == Kind::V2
            && let Value::Object(op) = &mut op
        {
            op.insert("produces".to_owned(), json!([media]));
        }
        op
    };
    let security = json!([{"Bearer": []}]);
    let health = answer("The service is ready.", "text/html", with(text, "example", json!("Healthy")));
    let health = operation(
        "ServiceHealthCheck",
        "Simple health check endpoint to ensure the service is up at any given point.",
        "text/html",
        health,
    );
    let scored = answer("The model's outputs.", json_type, refer("ServiceOutput"));
    let mut run = with(
        operation("RunMLService", "Run the model on the input and return its outputs.", json_type, scored),
        "security",
        security.clone(),
    );
    run = match kind {
        Kind::V2 => {
            let body = json!({"name": "serviceInputPayload", "in": "body", "required": true, "schema": refer("ServiceInput")});
            with(with(run, "parameters", json!([body])), "consumes", json!([json_type]))
        }
        _ => {
            let content = json!({json_type: {"schema": refer("ServiceInput")}});
            with(run, "requestBody", json!({"required": true, "content": content}))
        }
    };
    let spec = answer("This document.", json_type, json!({"type": "object"}));
    let spec = with(
        operation("GetSwaggerSpec", "The description of the service.", json_type, spec),
        "security",
        security.clone(),
    );
    let paths = json!({"/": {"get": health}, "/score": {"post": run}, "/swagger.json": {"get": spec}});
    let bearer = json!({
        "type": "apiKey", "name": "Authorization", "in": "header",
        "description": "For example: Bearer abc123",
    });
    match kind {
        Kind::V2 => json!({
            "swagger": "2.0", "info": info, "schemes": ["https", "http"],
            "consumes": [json_type], "produces": [json_type],
            "securityDefinitions": {"Bearer": bearer}, "paths": paths, "definitions": definitions,
        }),
        Kind::V3 | Kind::V31 => json!({
            "openapi": if kind == Kind::V3 { "3.0.3" } else { "3.1.0" },
            "info": info, "security": security, "paths": paths,
            "components": {"securitySchemes": {"Bearer": bearer}, "schemas": definitions},
        }),
    }
}

fn with(mut object: Value, key: &str, value: Value) -> Value {
    if let Value::Object(map) = &mut object {
        map.insert(key.to_owned(), value);
    }
    object
}

/// The schema of all ports of one side, with an example.
fn object(ports: &[Port], kind: Kind, input: bool) -> Value {
    let mut properties = Map::new();
    let mut example = Map::new();
    for port in ports {
        let described = with(schema(&port.kind, kind), "description", json!(port.kind.to_string()));
        properties.insert(port.name.clone(), described);
        example.insert(port.name.clone(), sample(&port.kind));
    }
    let mut schema = json!({"type": "object", "properties": properties, "example": example});
    if input {
        let required = ports.iter().filter(|p| !p.optional).map(|p| p.name.as_str()).collect::<Vec<_>>();
        schema = with(schema, "required", json!(required));
    }
    schema
}

fn schema(kind: &PortKind, of: Kind) -> Value {
    match kind {
        PortKind::Tensor { dtype, dims } => match dims {
            Some(dims) => dims.iter().rev().fold(element(*dtype), |items, dim| {
                let array = json!({"type": "array", "items": items});
                match dim {
                    Dim::Fixed(n) => with(with(array, "minItems", json!(n)), "maxItems", json!(n)),
                    Dim::Free(_) => array,
                }
            }),
            // 2.0 and 3.0 have no way to say "a number, or arrays of them, as deep as you like".
            None if of == Kind::V31 => json!({"type": ["array", "number", "string", "boolean"]}),
            None => json!({}),
        },
        PortKind::Sequence(items) => json!({"type": "array", "items": schema(items, of)}),
        PortKind::Map { value, .. } => json!({"type": "object", "additionalProperties": element(*value)}),
    }
}

fn element(dtype: DType) -> Value {
    match dtype {
        DType::Bool => json!({"type": "boolean"}),
        DType::String => json!({"type": "string"}),
        DType::F64 => json!({"type": "number", "format": "double"}),
        DType::I64 | DType::U64 => json!({"type": "integer", "format": "int64"}),
        DType::I8 | DType::I16 | DType::I32 | DType::U8 | DType::U16 | DType::U32 => {
            json!({"type": "integer", "format": "int32"})
        }
        _ => json!({"type": "number", "format": "float"}),
    }
}

/// A value that the port takes: one row of zeros, if that is not too long to read.
fn sample(kind: &PortKind) -> Value {
    match kind {
        PortKind::Tensor { dtype, dims } => {
            let lengths = dims.iter().flatten().map(|d| match d {
                Dim::Fixed(n) => *n,
                Dim::Free(_) => 1,
            });
            let lengths = lengths.collect::<Vec<_>>();
            if lengths.iter().fold(1usize, |n, d| n.saturating_mul(*d)) > EXAMPLE_ELEMENTS {
                return json!([]);
            }
            lengths.iter().rev().fold(zero(*dtype), |inner, n| Value::Array(vec![inner; *n]))
        }
        PortKind::Sequence(items) => json!([sample(items)]),
        PortKind::Map { key, value } => {
            let key = if *key == DType::String { "key" } else { "0" };
            json!({key: zero(*value)})
        }
    }
}

fn zero(dtype: DType) -> Value {
    match dtype {
        DType::Bool => json!(false),
        DType::String => json!("text"),
        d if d.is_float() => json!(0.0),
        _ => json!(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature() -> Signature {
        let dims = |n| vec![Dim::named("b"), Dim::Fixed(n)];
        let inputs = vec![Port::tensor("x", DType::F32, dims(2)), Port::tensor("img", DType::U8, dims(9999))];
        let zip = PortKind::Sequence(Box::new(PortKind::Map { key: DType::I64, value: DType::F32 }));
        let probabilities = Port { name: "p".into(), kind: zip, optional: false };
        Signature::new(inputs, vec![Port::tensor("label", DType::I64, vec![Dim::named("b")]), probabilities])
            .unwrap()
    }

    #[test]
    fn each_version_describes_the_model() {
        let swagger = Swagger::new(&signature(), "digits", "1.0");
        let picked = |query| pick(query, |version| Some(swagger.of(version)));
        let asked = [
            (None, "/swagger", "2.0"),
            (Some("version=2"), "/swagger", "2.0"),
            (Some("version=2.0"), "/swagger", "2.0"),
            (Some("a=b&version=3"), "/openapi", "3.0.3"),
            (Some("version=3.0"), "/openapi", "3.0.3"),
            (Some("version=3.1"), "/openapi", "3.1.0"),
        ];
        for (query, key, version) in asked {
            let doc: Value = serde_json::from_slice(&picked(query).unwrap()).unwrap();
            let at = |pointer: &str| doc.pointer(pointer).unwrap_or_else(|| panic!("{pointer} in {doc:#}"));
            assert_eq!(at(key), version);
            assert_eq!(at("/info/title"), "digits");
            assert_eq!(at("/paths/~1/get/operationId"), "ServiceHealthCheck");
            assert_eq!(at("/paths/~1score/post/operationId"), "RunMLService");
            assert_eq!(at("/paths/~1swagger.json/get/operationId"), "GetSwaggerSpec");
            let (defs, bearer) = match version {
                "2.0" => ("/definitions", "/securityDefinitions/Bearer/in"),
                _ => ("/components/schemas", "/components/securitySchemes/Bearer/in"),
            };
            assert_eq!(at(bearer), "header");
            let input = |p: &str| at(&format!("{defs}/ServiceInput/{p}"));
            assert_eq!(input("properties/x/items/minItems"), 2);
            assert_eq!(input("example"), &json!({"x": [[0.0, 0.0]], "img": []}));
            assert_eq!(
                at(&format!("{defs}/ServiceOutput/example")),
                &json!({"label": [0], "p": [{"0": 0.0}]})
            );
            assert_eq!(at(&format!("{defs}/ErrorResponse/properties/message/type")), "string");
        }
        let e = picked(Some("version=9")).unwrap_err();
        assert_eq!(e, "Swagger version [9] is not valid. Supported versions: [2, 3, 3.1].");
        let only = |query| {
            pick(query, |version| (version == SwaggerVersion::V31).then(|| Bytes::from_static(b"{}")))
        };
        assert_eq!(only(Some("version=3.1")).unwrap(), "{}");
        let missing =
            "Swagger version [2] is not supported for the scoring script. Supported swagger versions: [3.1].";
        assert_eq!(only(None).unwrap_err(), missing);
    }
}
