CREATE DATABASE mlflow OWNER usermodel;
