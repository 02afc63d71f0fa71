//! What every route that needs a token may answer beside its own: that the operator keeps the user out. Said once, for
//! all of them, in the words of the answer to a token that is none.

use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::{OpenApi, RefOr};

/// The status of an answer to a token that is none, and of this one, as the document has them.
const LIKE: &str = "401";
const STATUS: &str = "403";

/// Declares it wherever its status is not declared for something else already.
pub fn declare(document: &mut OpenApi) {
    for item in document.paths.paths.values_mut() {
        for operation in operations(item).into_iter().flatten() {
            let responses = &mut operation.responses.responses;
            let Some(RefOr::T(mut blocked)) = responses.get(LIKE).cloned() else { continue };
            blocked.description = "`user_blocked`".to_owned();
            responses.entry(STATUS.to_owned()).or_insert(RefOr::T(blocked));
        }
    }
}

fn operations(item: &mut PathItem) -> [Option<&mut Operation>; 5] {
    let PathItem { get, put, post, delete, head, .. } = item;
    [get, put, post, delete, head].map(Option::as_mut)
}
