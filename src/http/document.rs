//! The OpenAPI document, from the declarations of the routes and what holds for all of them.
//!
//! A route declares what is its own. Added here are the problems that any request with a token can be answered with, that
//! they are problem documents, and the headers that come with them.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::body::{MAX_LABEL_VALUE, MAX_LABELS};
use super::problem::CODES;

/// The problems that any request with a token can be answered with. What else a status means is for the route to say.
const COMMON: [&str; 8] = [
    "ambiguous_request",
    "invalid_parameter",
    "unauthorized",
    "request_timeout",
    "too_many_requests",
    "storage_failed",
    "workspace_unavailable",
    "draining",
];

/// Completes a document.
pub fn complete(document: &mut Value) {
    // What the declarations have no words for.
    let schemas = &mut document["components"]["schemas"];
    let labels = &mut schemas["RunRequest"]["properties"]["metadata"];
    labels["maxProperties"] = MAX_LABELS.into();
    labels["additionalProperties"]["maxLength"] = MAX_LABEL_VALUE.into();
    schemas["Upload"]["properties"]["file"]["items"] = json!({"type": "string", "format": "binary"});
    document["paths"]["/workspace/files/content"]["put"]["requestBody"] = json!({
        "description": "The bytes; none make an empty file",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    });
    stream(document);
    let Some(paths) = document["paths"].as_object_mut() else { return };
    for operation in paths.values_mut().filter_map(Value::as_object_mut).flat_map(|methods| methods.values_mut()) {
        without_null(operation["parameters"].as_array_mut());
        if operation["security"].is_array()
            && let Some(responses) = operation["responses"].as_object_mut()
        {
            common(responses);
        }
        if let Some(responses) = operation["responses"].as_object_mut() {
            responses.iter_mut().for_each(|(status, response)| finish(status, response));
        }
        if operation["parameters"].is_null()
            && let Some(operation) = operation.as_object_mut()
        {
            operation.remove("parameters");
        }
    }
}

/// In a stream an event's data is a text of JSON.
fn stream(document: &mut Value) {
    let mut event = document["components"]["schemas"]["Event"].clone();
    for kind in event["oneOf"].as_array_mut().into_iter().flatten() {
        let data = kind["properties"]["data"].take();
        kind["properties"]["data"] =
            json!({"type": "string", "contentMediaType": "application/json", "contentSchema": data});
    }
    event["description"] = "An event as it is streamed.".into();
    document["components"]["schemas"]["StreamedEvent"] = event;
    let answer = &mut document["paths"]["/runs/{id}/events"]["get"]["responses"]["200"];
    answer["content"]["text/event-stream"]["schema"] = json!({"$ref": "#/components/schemas/StreamedEvent"});
}

/// A parameter that may be left out is not one that may be null.
fn without_null(parameters: Option<&mut Vec<Value>>) {
    for parameter in parameters.into_iter().flatten() {
        let Some(kind) = parameter.pointer_mut("/schema/type") else { continue };
        if let Some(types) = kind.as_array()
            && let Some(only) = types.iter().find(|kind| *kind != "null").cloned()
        {
            *kind = only;
        }
    }
}

/// Adds what any request can be answered with.
fn common(responses: &mut Map<String, Value>) {
    for code in COMMON {
        let Some((code, status, _)) = CODES.iter().find(|(known, ..)| *known == code) else { continue };
        let is_declared = responses.contains_key(status.as_str());
        let response = responses.entry(status.as_str()).or_insert_with(|| json!({"description": ""}));
        response["content"] = json!({"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}});
        let told = response["description"].as_str().unwrap_or_default().to_owned();
        // Where a route says nothing of its own, all codes of the status are named below.
        let is_open = is_declared && told.is_empty();
        if !is_open && !told.contains(code) {
            let and = if told.is_empty() { "" } else { "; " };
            response["description"] = format!("{told}{and}`{code}`").into();
        }
    }
}

fn is_untold(response: &Value) -> bool {
    response["description"].as_str().is_none_or(str::is_empty)
}

/// Gives an answer its media type and its headers.
fn finish(status: &str, response: &mut Value) {
    let text = |meaning: &str| json!({"schema": {"type": "string"}, "description": meaning});
    let number = |meaning: &str| json!({"schema": {"type": "integer", "minimum": 0}, "description": meaning});
    let mut headers = vec![("X-Request-Id", text("The request's id, as the journal has it"))];
    let is_problem = response["content"]["application/json"]["schema"]["$ref"] == "#/components/schemas/Problem";
    if is_problem {
        response["content"] = json!({"application/problem+json": response["content"]["application/json"]});
        if is_untold(response) {
            let of = |code: StatusCode| code.as_str() == status;
            let codes: Vec<_> =
                CODES.iter().filter(|(_, known, _)| of(*known)).map(|(code, ..)| format!("`{code}`")).collect();
            response["description"] = codes.join(", ").into();
        }
        if status == "401" {
            headers.push(("WWW-Authenticate", text("`Bearer`, and what is wrong with the token")));
        }
        if ["429", "503"].contains(&status) {
            headers.push(("Retry-After", number("Seconds")));
        }
    }
    if is_untold(response) {
        let known = StatusCode::from_bytes(status.as_bytes()).ok().and_then(|status| status.canonical_reason());
        response["description"] = known.unwrap_or("An answer").into();
    }
    if response["content"].is_null()
        && let Some(response) = response.as_object_mut()
    {
        response.remove("content");
    }
    for (name, header) in headers {
        if response["headers"][name].is_null() {
            response["headers"][name] = header;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn document() -> Value {
        serde_json::from_str(&crate::http::openapi_json()).unwrap()
    }

    #[test]
    fn every_problem_is_a_problem_document_and_says_which_it_can_be() {
        for (path, methods) in document()["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                for (status, response) in operation["responses"].as_object().unwrap() {
                    let place = format!("{method} {path} {status}");
                    assert!(response["headers"]["X-Request-Id"].is_object(), "{place}");
                    let told = response["description"].as_str().unwrap();
                    assert!(!told.is_empty(), "{place}");
                    if status.as_str() >= "400" && path != "/health/ready" {
                        let content = response["content"].as_object().unwrap();
                        assert_eq!(content.keys().collect::<Vec<_>>(), ["application/problem+json"], "{place}");
                        for code in told.split('`').skip(1).step_by(2).filter(|word| !word.contains(['?', '=', '*'])) {
                            let known = CODES.iter().find(|(known, ..)| *known == code);
                            assert!(known.is_none_or(|(_, known, _)| known.as_str() == status), "{place}: {code}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_streamed_event_has_its_data_as_text_and_one_of_a_page_as_an_object() {
        let schemas = &document()["components"]["schemas"];
        let kinds = |name: &str| schemas[name]["oneOf"].as_array().unwrap().clone();
        assert_eq!(kinds("Event").len(), kinds("StreamedEvent").len());
        for (paged, streamed) in kinds("Event").into_iter().zip(kinds("StreamedEvent")) {
            let data = &streamed["properties"]["data"];
            assert_eq!((&data["type"], &data["contentSchema"]), (&"string".into(), &paged["properties"]["data"]));
            assert!(paged["properties"]["data"].is_object(), "{paged}");
        }
    }

    #[test]
    fn every_schema_that_is_named_is_there() {
        let document = document();
        let text = document.to_string();
        for rest in text.split("#/components/schemas/").skip(1) {
            let name = rest.split('"').next().unwrap();
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
        }
    }
}
