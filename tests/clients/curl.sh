#!/bin/sh
# curl, as a person types it: `sh tests/clients/curl.sh BASE_URL KEY` prints `ok NAME` or
# `FAILED NAME: reason` for each feature. A feature is a function that prints what does not fit.
# Knows nothing of llmrelay; of an answer it looks at what a person would look for.
set -u

base_url=$1
key=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1

prompt='Grüße aus Zürich, 東京 🚀'
asked='"messages": [{"role": "user", "content": "'$prompt'"}]'
# Not text, and longer than what a relay may hold of a call.
head -c 700000 /dev/urandom >a.wav
sum=$(sha256sum a.wav | cut -d' ' -f1)

ask() {
    path=$1
    shift
    curl --silent --show-error --no-buffer --max-time 20 --header "Authorization: Bearer $key" \
        "$base_url/$path" "$@"
}

json() {
    path=$1
    body=$2
    shift 2
    ask "$path" --header 'Content-Type: application/json' --data "$body" "$@"
}

# What is wanted has to be in what came.
holds() {
    case $1 in
    *"$2"*) ;;
    *) echo "no '$2' in: $(printf %s "$1" | head -c 400)" ;;
    esac
}

# The texts of a stream's deltas, under the name that they have there.
texts() {
    sed -n 's/.*"'"$1"'": "\([^"]*\)".*/\1/p' | tr -d '\n'
}

feature() {
    name=$1
    shift
    reason=$("$@" 2>&1)
    if [ -z "$reason" ]; then
        echo "ok $name"
    else
        echo "FAILED $name:" $reason
    fi
}

chat() {
    got=$(json chat/completions "{\"model\": \"gpt-4o-mini\", $asked}" --fail-with-body)
    holds "$got" "\"content\": \"You said: $prompt\""
    holds "$got" '"total_tokens": 18'
}

chat_streamed() {
    got=$(json chat/completions "{\"model\": \"gpt-4o-mini\", \"stream\": true, $asked}")
    holds "$(echo "$got" | texts content)" "You said: $prompt"
    holds "$got" 'data: [DONE]'
    case $got in *total_tokens*) echo "usage that was not asked for" ;; esac
}

completions() {
    got=$(json completions "{\"model\": \"gpt-4o-mini\", \"prompt\": \"$prompt\"}")
    holds "$got" "\"text\": \"You said: $prompt\""
}

responses_streamed() {
    got=$(json responses "{\"model\": \"gpt-4o-mini\", \"stream\": true, \"input\": \"$prompt\"}")
    holds "$got" 'event: response.created'
    holds "$(echo "$got" | texts delta)" "You said: $prompt"
    holds "$got" 'event: response.completed'
}

embeddings() {
    got=$(json embeddings '{"model": "gpt-4o-mini", "input": "abc"}')
    holds "$got" '"embedding": [3.0, 0.5, -1.25]'
}

moderations() {
    got=$(json moderations '{"input": "violence"}')
    holds "$got" '"flagged": true'
}

models() {
    holds "$(ask models)" '"gpt-4o-mini"'
}

images() {
    json images/generations '{"model": "gpt-4o-mini", "prompt": "a"}' |
        sed 's/.*"b64_json": "\([^"]*\)".*/\1/' | base64 -d >got
    [ "$(wc -c <got)" = 200000 ] || wc -c got
}

transcription() {
    got=$(ask audio/transcriptions --form file=@a.wav --form model=gpt-4o-mini)
    holds "$got" "\"text\": \"I heard a.wav: $sum\""
}

transcription_as_text() {
    got=$(ask audio/transcriptions --form file=@a.wav --form model=gpt-4o-mini \
        --form response_format=text --header 'Transfer-Encoding: chunked')
    holds "$got" "I heard a.wav: $sum"
}

transcription_streamed() {
    got=$(ask audio/transcriptions --form file=@a.wav --form model=gpt-4o-mini --form stream=true)
    holds "$(echo "$got" | texts delta)" "I heard a.wav: $sum"
}

translation() {
    got=$(ask audio/translations --form file=@a.wav --form model=gpt-4o-mini)
    holds "$got" "In English: $sum"
}

speech() {
    # The first bytes are there before the others are made.
    times=$(json audio/speech '{"model": "gpt-4o-mini", "voice": "alloy", "input": "a"}' \
        --output got --write-out '%{content_type} %{time_starttransfer} %{time_total}')
    # The image is made of the same words.
    json images/generations '{"model": "gpt-4o-mini", "prompt": "a"}' |
        sed 's/.*"b64_json": "\([^"]*\)".*/\1/' | base64 -d | cmp - got
    holds "$times" 'audio/mpeg '
    echo "$times" | awk '$3 - $2 < 0.15 { print "all of it came at once:", $0 }'
}

rerank() {
    got=$(json rerank '{"model": "gpt-4o-mini", "query": "snow", "documents": ["sun", "snow"]}')
    holds "$got" '"results": [{"index": 1, '
}

messages() {
    body="{\"model\": \"gpt-4o-mini\", \"max_tokens\": 9, $asked}"
    got=$(json messages "$body" --header 'anthropic-version: 2023-06-01')
    holds "$got" "\"text\": \"You said: $prompt\""
}

messages_streamed() {
    body="{\"model\": \"gpt-4o-mini\", \"max_tokens\": 9, \"stream\": true, $asked}"
    got=$(json messages "$body" --header 'anthropic-version: 2023-06-01')
    holds "$got" 'event: message_start'
    holds "$(echo "$got" | texts text)" "You said: $prompt"
    holds "$got" 'event: message_stop'
}

cancelled() {
    said='"messages": [{"role": "user", "content": "curl"}]'
    body="{\"model\": \"endless\", \"stream\": true, $said}"
    json chat/completions "$body" --max-time 1 >got 2>&1
    [ $? = 28 ] || echo "curl did not end at its time limit"
    holds "$(cat got)" '"content": "one"'
    # Upstream answers once the client of the endless answer to this prompt has left, in time.
    got=$(json chat/completions "{\"model\": \"was-closed\", $said}")
    holds "$got" '"content": "closed"'
}

# A model that gives trouble: the status, and what stands in the head or the body.
refused() {
    got=$(json chat/completions "{\"model\": \"$1\", $asked}" --include)
    holds "$got" "HTTP/1.1 $2"
    holds "$got" "$3"
    holds "$got" '"error": {'
}

rate_limit() {
    refused busy 429 rate_limit_exceeded
    holds "$(echo "$got" | tr '[:upper:]' '[:lower:]')" 'retry-after: 7'
}

wrong_token() {
    key=not-a-token-of-anybody
    refused gpt-4o-mini 401 '"type": '
}

broken() {
    got=$(json chat/completions "{\"model\": \"$1\", \"stream\": true, $asked}" 2>&1)
    holds "$got" '"content": " two"'
    holds "$got" '"error": {'
    case $got in *'[DONE]'*) echo "[DONE] behind an error" ;; esac
}

headers() {
    # Upstream refuses a request with either of them.
    got=$(json chat/completions "{\"model\": \"gpt-4o-mini\", $asked}" --include \
        --header 'Cookie: session=of-the-client' --header 'X-Api-Key: of-the-client')
    got=$(echo "$got" | tr '[:upper:]' '[:lower:]')
    holds "$got" 'x-request-id: req_'
    holds "$got" 'http/1.1 200'
    case $got in *set-cookie*) echo "upstream's cookie" ;; esac
}

feature 'chat' chat
feature 'chat, streamed' chat_streamed
feature 'completions' completions
feature 'responses, streamed' responses_streamed
feature 'embeddings' embeddings
feature 'moderations' moderations
feature 'models' models
feature 'images' images
feature 'transcription' transcription
feature 'transcription as text' transcription_as_text
feature 'transcription, streamed' transcription_streamed
feature 'translation' translation
feature 'speech, as it comes' speech
feature 'rerank' rerank
feature 'messages' messages
feature 'messages, streamed' messages_streamed
feature 'cancelled midway' cancelled
feature 'unknown model' refused no-such-model 404 model_not_found
feature 'rate limit' rate_limit
feature 'wrong token' wrong_token
feature 'upstream refuses the key' refused wrong-key 502 upstream_auth
feature 'error midway' broken broken-midway
feature 'upstream lost midway' broken cut-midway
feature 'headers' headers
