// Sends files to uploads that are there, as the Client App will: by tus-js-client, again and again.
//
//     node upload.mjs '{"base": "http://…", "token": "…", "uploads": [{"url": "/v1/…", "file": "…"}]}'
//
// Prints how often it had to try again, as JSON.
import { readFileSync } from 'node:fs'
import { Upload } from 'tus-js-client'

const { base, token, uploads } = JSON.parse(process.argv[2])
let retries = 0

function send({ url, file }) {
  return new Promise((resolve, reject) => {
    const upload = new Upload(readFileSync(file), {
      uploadUrl: base + url,
      headers: { Authorization: `Bearer ${token}` },
      retryDelays: Array(300).fill(200),
      onShouldRetry: (error) => {
        retries += 1
        const status = error.originalResponse ? error.originalResponse.getStatus() : 0
        return status < 400 || status >= 500 || [401, 409, 423].includes(status)
      },
      onError: reject,
      onSuccess: resolve,
    })
    upload.start()
  })
}

await Promise.all(uploads.map(send))
console.log(JSON.stringify({ retries }))
