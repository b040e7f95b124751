mock_provider "aws" {}

variables {
  bucket_name = "team-checkpoints"
}

run "bucket" {
  command = plan

  assert {
    condition     = aws_s3_bucket.this.bucket == "team-checkpoints"
    error_message = "the bucket has another name"
  }
}
